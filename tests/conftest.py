"""Settings every test shares: single-threaded mathematics, so that runs side by side repeat exactly."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)
