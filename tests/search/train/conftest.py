"""The data of `train_fixtures`, for every test here."""

from train_fixtures import data

__all__ = ["data"]
