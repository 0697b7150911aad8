"""ParallelBench: tasks that are easy one token at a time, and where tokens committed together must agree.

Kang et al. 2025, "ParallelBench: Understanding the Trade-offs of Parallel Decoding in Diffusion LLMs", ICLR 2026,
arXiv 2510.04767. Made here from its description: the wording of the questions, the names and the word lists are ours.

    samples = make_task("shuffle", n=4)
    score("shuffle", answer, samples[0])
"""

from szilard.evaluation.parallelbench.exact_model import ExactTaskModel
from szilard.evaluation.parallelbench.generate import TASKS, TaskKind, compact_vocabulary, make_task, seed_of
from szilard.evaluation.parallelbench.names import FIRST_NAMES, LAST_NAMES, NAMES
from szilard.evaluation.parallelbench.sample import Sample
from szilard.evaluation.parallelbench.scoring import score, text_metrics
from szilard.evaluation.parallelbench.sweep import Answer, Point, SweepTable, centre_of_mass, oracle, pb_at, sweep
from szilard.evaluation.parallelbench.theory import (
    best_bound,
    best_partition,
    replace_random_accuracy,
    replace_random_joint,
    replace_random_total_correlation,
    shuffle_accuracy,
    shuffle_joint,
    shuffle_step_bound,
    shuffle_total_correlation,
    step_bound,
    total_correlation,
)

__all__ = [
    "FIRST_NAMES",
    "LAST_NAMES",
    "NAMES",
    "TASKS",
    "Answer",
    "ExactTaskModel",
    "Point",
    "Sample",
    "SweepTable",
    "TaskKind",
    "best_bound",
    "best_partition",
    "centre_of_mass",
    "compact_vocabulary",
    "make_task",
    "oracle",
    "pb_at",
    "replace_random_accuracy",
    "replace_random_joint",
    "replace_random_total_correlation",
    "score",
    "seed_of",
    "shuffle_accuracy",
    "shuffle_joint",
    "shuffle_step_bound",
    "shuffle_total_correlation",
    "step_bound",
    "sweep",
    "text_metrics",
    "total_correlation",
]
