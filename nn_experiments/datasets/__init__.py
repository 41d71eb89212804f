"""Data sets: configurations that load fixed, shuffled train and test tensors; and their augmentation in training."""

from nn_experiments.datasets.augmentation import Augmentation
from nn_experiments.datasets.base import DataSet, Tensors, stratified_split
from nn_experiments.datasets.digits import Digits
from nn_experiments.datasets.image_folder import ImageFolder
from nn_experiments.datasets.published import CIFAR10, CIFAR100, SVHN, FashionMNIST

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "SVHN",
    "Augmentation",
    "DataSet",
    "Digits",
    "FashionMNIST",
    "ImageFolder",
    "Tensors",
    "stratified_split",
]
