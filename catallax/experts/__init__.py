"""Experts: modules of a network that compete for tokens at market prices.

Importing this package loads neither NumPy nor JAX; the first name that needs them does.
"""

from typing import TYPE_CHECKING

from ..lazy import offer

_HOMES = {
    "Routing": "problem",
    "RouterMarket": "rules",
    "Assignment": "clear",
    "assign": "clear",
    "clear": "clear",
    "Placement": "solve",
    "assign_experts": "solve",
    "certify": "certify",
    "Comparison": "compare",
    "compare": "compare",
    "Regimes": "regimes",
    "compare_objectives": "regimes",
    "Expert": "layer",
    "MarketMoE": "layer",
    "Logs": "routers",
    "Routed": "routers",
    "Router": "routers",
    "RouterState": "routers",
    "ROUTERS": "rivals",
    "dual_value": "certify",
    "Corpus": "text",
    "machine_domains": "text",
    "plays": "text",
    "read_texts": "text",
    "split": "text",
    "LanguageModel": "model",
    "Shape": "model",
    "load": "model",
    "Settings": "train",
    "Trained": "train",
    "Training": "train",
    "train": "train",
    "Evaluation": "evaluate",
    "calibrate": "evaluate",
    "evaluate": "evaluate",
    "generate": "sample",
}

__all__ = offer(__name__, _HOMES)

if TYPE_CHECKING:
    from .certify import certify as certify
    from .certify import dual_value as dual_value
    from .clear import Assignment as Assignment
    from .clear import assign as assign
    from .clear import clear as clear
    from .compare import Comparison as Comparison
    from .compare import compare as compare
    from .evaluate import Evaluation as Evaluation
    from .evaluate import calibrate as calibrate
    from .evaluate import evaluate as evaluate
    from .layer import Expert as Expert
    from .layer import MarketMoE as MarketMoE
    from .model import LanguageModel as LanguageModel
    from .model import Shape as Shape
    from .model import load as load
    from .problem import Routing as Routing
    from .regimes import Regimes as Regimes
    from .regimes import compare_objectives as compare_objectives
    from .rivals import ROUTERS as ROUTERS
    from .routers import Logs as Logs
    from .routers import Routed as Routed
    from .routers import Router as Router
    from .routers import RouterState as RouterState
    from .rules import RouterMarket as RouterMarket
    from .sample import generate as generate
    from .solve import Placement as Placement
    from .solve import assign_experts as assign_experts
    from .text import Corpus as Corpus
    from .text import machine_domains as machine_domains
    from .text import plays as plays
    from .text import read_texts as read_texts
    from .text import split as split
    from .train import Settings as Settings
    from .train import Trained as Trained
    from .train import Training as Training
    from .train import train as train
