"""Two random views of each of scikit-learn's digits, as `dino.py` and `vicreg.py` train on them."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Dataset


class TwoViews(Dataset):
    """Two random views of each image: shifted by up to one pixel, with noise."""

    def __init__(self) -> None:
        self.images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16

    def __len__(self) -> int:
        """How many images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Two views [1, 8, 8]."""
        return self.view(self.images[index]), self.view(self.images[index])

    def view(self, image: torch.Tensor) -> torch.Tensor:
        """One view."""
        row, column = torch.randint(0, 3, (2,)).tolist()
        shifted = nn.functional.pad(image, (1, 1, 1, 1))[:, row : row + 8, column : column + 8]
        return shifted + 0.1 * torch.randn_like(shifted)
