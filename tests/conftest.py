"""Settings every test shares: one thread, so that runs side by side repeat exactly."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)
