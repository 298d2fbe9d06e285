"""Where and as whom a test works."""

import contextlib
import os
import resource
import shutil
import tempfile
from pathlib import Path

NOBODY = 65534


@contextlib.contextmanager
def working_in(folder):
    """Have another working directory."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def limited(kind, size):
    """Lower a limit of this process; RLIMIT_FSIZE is to writers the same as a full disk."""
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


@contextlib.contextmanager
def open_folder():
    """Make a folder that every user may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def bound_by_permissions():
    """Be a user whom permissions bind: root, whom none do, becomes nobody."""
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)
