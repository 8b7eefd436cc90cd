"""Small models are slower on many threads than on one, and tests share the machine."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
