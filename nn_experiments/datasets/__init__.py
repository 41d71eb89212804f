"""Data sets: configurations that load fixed, shuffled train and test tensors; and their augmentation in training."""

from nn_experiments.datasets.augmentation import Augmentation
from nn_experiments.datasets.base import DataSet, Tensors, stratified_split
from nn_experiments.datasets.digits import Digits

__all__ = ["Augmentation", "DataSet", "Digits", "Tensors", "stratified_split"]
