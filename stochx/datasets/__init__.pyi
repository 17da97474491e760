# Written by `python -m stochx.stubs` from the files of this folder; do not edit.
"""Data sets: sources of images, labels and masks.

Add one by writing `stochx/datasets/<name>.py` with one frozen dataclass that fits `Dataset`.
"""
from __future__ import annotations
from typing import TYPE_CHECKING, Literal, Protocol
from stochx.engine.io.data import Data as Data
from stochx.engine.io.data import from_arrays as from_arrays
Split = Literal['train', 'val', 'test']

class Dataset(Protocol):
    """split: `train`, `val` or `test` -> `Data`; a data set without splits returns the same for all.

    The splits of few-shot domains share no class; elsewhere `val` equals `test` unless the data set has its own.
    """

    def __call__(self, split: Split) -> Data:
        ...
from stochx.datasets.cars import Cars as Cars
from stochx.datasets.chestx import ChestX as ChestX
from stochx.datasets.cifar10 import Cifar10 as Cifar10
from stochx.datasets.cifar100 import Cifar100 as Cifar100
from stochx.datasets.cropdisease import CropDisease as CropDisease
from stochx.datasets.cub import CUB as CUB
from stochx.datasets.eurosat import EuroSAT as EuroSAT
from stochx.datasets.folder import Folder as Folder
from stochx.datasets.hdf5 import Hdf5 as Hdf5
from stochx.datasets.imagenet import ImageNet as ImageNet
from stochx.datasets.images import Images as Images
from stochx.datasets.isic import ISIC as ISIC
from stochx.datasets.miniimagenet import MiniImageNet as MiniImageNet
from stochx.datasets.npz import Npz as Npz
from stochx.datasets.parquet import Parquet as Parquet
from stochx.datasets.places import Places as Places
from stochx.datasets.plantae import Plantae as Plantae
from stochx.datasets.shapes import Shapes as Shapes
from stochx.datasets.webdataset import Webdataset as Webdataset
from stochx.datasets.zip import Zip as Zip
