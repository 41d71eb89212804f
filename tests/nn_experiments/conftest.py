"""One torch thread, as in a worker process: sums over threads would round differently, and tests run side by side."""

import torch

torch.set_num_threads(1)
