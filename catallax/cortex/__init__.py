"""Cortex: neurons that compete for what remains unexplained, and so represent it with few of them.

Importing this package loads neither NumPy nor JAX; the first name that needs them does.
"""

from typing import TYPE_CHECKING

from ..lazy import offer

_HOMES = {
    "SparseCoding": "problem",
    "unit_rows": "problem",
    "Codes": "solve",
    "encode": "solve",
    "Competition": "rules",
    "certify": "certify",
    "Comparison": "compare",
    "compare": "compare",
    "scores": "certify",
    "Photograph": "images",
    "panned": "images",
    "patches": "images",
    "photographs": "images",
    "read_image": "images",
    "whiten": "images",
    "Learned": "learn",
    "Learning": "learn",
    "Lesson": "learn",
    "learn": "learn",
    "Hebbian": "learn_rules",
    "Gabors": "gabor",
    "fit_gabors": "gabor",
    "CompetitiveLayer": "layer",
    "recall": "memory",
    "recall_table": "memory",
    "medium": "volume",
    "peak_table": "volume",
    "Autoencoder": "autoencoder",
    "load": "autoencoder",
    "train": "autoencoder",
    "read_activations": "activations",
    "Features": "features",
    "mcc": "features",
    "f1": "features",
}

__all__ = offer(__name__, _HOMES)

if TYPE_CHECKING:
    from .activations import read_activations as read_activations
    from .autoencoder import Autoencoder as Autoencoder
    from .autoencoder import load as load
    from .autoencoder import train as train
    from .certify import certify as certify
    from .certify import scores as scores
    from .compare import Comparison as Comparison
    from .compare import compare as compare
    from .features import Features as Features
    from .features import f1 as f1
    from .features import mcc as mcc
    from .gabor import Gabors as Gabors
    from .gabor import fit_gabors as fit_gabors
    from .images import Photograph as Photograph
    from .images import panned as panned
    from .images import patches as patches
    from .images import photographs as photographs
    from .images import read_image as read_image
    from .images import whiten as whiten
    from .layer import CompetitiveLayer as CompetitiveLayer
    from .learn import Learned as Learned
    from .learn import Learning as Learning
    from .learn import Lesson as Lesson
    from .learn import learn as learn
    from .learn_rules import Hebbian as Hebbian
    from .memory import recall as recall
    from .memory import recall_table as recall_table
    from .problem import SparseCoding as SparseCoding
    from .problem import unit_rows as unit_rows
    from .rules import Competition as Competition
    from .solve import Codes as Codes
    from .solve import encode as encode
    from .volume import medium as medium
    from .volume import peak_table as peak_table
