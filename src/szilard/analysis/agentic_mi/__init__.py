"""Mutual information between contexts and what a compressor makes of them: which part of an agent system to improve.

He, Narayan, Khare, Linderman, Re, Biderman, "An Information Theoretic Perspective on Agentic System Design", 2025,
arXiv 2512.21720 (no code released).
"""

from szilard.analysis.agentic_mi.choices import Recommendation, choice_importance, partial_correlation, recommend
from szilard.analysis.agentic_mi.compute import api_cost, flops_per_generation
from szilard.analysis.agentic_mi.measure import agentic_mi
from szilard.analysis.agentic_mi.predict import Answers, answer_questions, continuation_distortion
from szilard.analysis.agentic_mi.prompts import CondensePrompt
from szilard.analysis.agentic_mi.report import InformationReport, Point, point

__all__ = [
    "Answers",
    "CondensePrompt",
    "InformationReport",
    "Point",
    "Recommendation",
    "agentic_mi",
    "answer_questions",
    "api_cost",
    "choice_importance",
    "continuation_distortion",
    "flops_per_generation",
    "partial_correlation",
    "point",
    "recommend",
]
