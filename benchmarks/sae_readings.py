"""What the page on concepts and sparse autoencoders says by hand."""

HEAD = """## Concepts and sparse autoencoders

**Claim** (Liu et al. 2026, arXiv 2503.08980; figures only, read by third parties). Hidden states are an affine map of the concepts'
log-posteriors: mean differences of counterfactual pairs and weights of linear probes make a matrix near the identity; linear
accuracy of concepts from a trained predictor rises with the number of observed variables; by the correlation of exp(z) with a
probe's posterior top-k < batch-top-k ~ p-annealing < structured (z = S + R), all below 0.8, the structured one with the least error, too.

```
python benchmarks/sae.py --part planted --seed 0         # and 1, 2
python benchmarks/sae.py --part simulation
python benchmarks/sae.py --part smollm2
python benchmarks/sae.py --part harvest --data FOLDER
python benchmarks/sae.py --part saes --data FOLDER
```

### Planted dependent concepts

Activations x = A log p(c|x) + b with exact posteriors. *topics*: 40 concepts, their chances given by one of 6 topics, a few of them seen;
a concept's posterior is its topic's part (low rank) and its own evidence (sparse); 80 log-posteriors in d = 48. *graph*: 8 concepts on a
random graph, every observation depends on all of them, nothing is sparse; 16 log-posteriors in d = 24. m = 4 d, 800 steps of 512 rows.
Every contestant's weight (lambda or k) is swept, and the curves are read at the same L0. L0 counts S alone, so that R is extra: "D^T x" is the
control for that, the dense codes D^T x that *every* dictionary has. "directions": mean cosine of the rows of A with the nearest column of D.
"""

PLANTED = """**Reading.** *Does the structured autoencoder recover dependent concepts better? As a code, yes, where the posteriors are what it
assumes, and only at the right gamma; as a dictionary, no.* On topics at equal L0, in every seed, its z follows the posteriors better than
L1, TopK, JumpReLU and p-annealing (exp about 0.63 to 0.45, log 0.41 to 0.18, AUROC 0.64 to 0.57), and rebuilds more; a head of bounded rank
(factorised, 5) does the same and needs no tuning. What does it is R, which carries the topic's part to all concepts: S alone is as good as
p-annealing's code and no better, and the columns of D lie as near to the true directions or less near (0.94 to 0.97; 0.90 with the factorised head).
The control explains most of the gain: dense codes D^T x of the *plain* dictionaries follow log p as well as z = S + R does (0.41, AUROC 0.64);
only by the paper's score, the correlation of exp(z), which depends on the scale of z, is the structured code ahead of them (0.63 to 0.44).
On graph, where nothing is sparse, any gain is one of density: the structured codes are at most as good as D^T x of plain dictionaries, and as
R grows, S dies. A random dense dictionary already has 0.60 (log) there, so the paper's score must be compared at equal density, not at equal L0.

*gamma.* The quotient gamma / lambda decides. What is active in a share f of the rows costs about lambda f in S, and gamma sqrt(f / (m / d)) in R,
which spreads over m / d columns: R takes whatever is active more often than f = (gamma / lambda)² d / m. Here m / d = 4: at a quotient of 0.5 that is 6 % of
the rows (everything), at 2 it is all of them (nothing), and between, at 1.4, the part that all rows share goes into R. That is a rule for one direction alone, made after the tables: on topics R has all at 0.7,
a fifth at 1.4, nothing at 2.8; on graph still nine tenths at 1.4 and two fifths at 2. The quotients compared above, 1.4 and 2, were taken from these same seeds by the share of R,
and JumpReLU's threshold after a first failure: the structured one had nine quotients to choose from, the others none. That is why one gamma swallows everything and another does nothing at lambda = 1; gamma = 0.7 lambda sqrt(m / d) is where to begin.
*JumpReLU* with its default threshold (0.05) did not become sparse in 800 steps at any weight (L0 43 to 49 on topics, directions 0.48: chance is 0.42);
with threshold and bandwidth at 0.5 it recovers directions like the others.
"""

SIMULATION = ""

MODELS = """**Reading.** *Alignment.* Behind a beginning of a sentence every concept's direction lies by its own probe at every layer measured, far above
permuted words (diagonal 0.69 at the embeddings, 0.81 to 0.86 at layers 5 to 25, 0.74 at the last, where chance reaches 0.06, off-diagonals are 0.1, and probes are right on 98 to 99 %
of unseen pairs). It is no identity: with a tuned C and other pairs for the probe 0.85 is what is left of the 1.00 of the paper's form, and related concepts share directions.
Bare words, as the paper gives them, show much less (0.2 to 0.5; in layers 15 to 25 four of 17 concepts are not above chance): SmolLM2 has no
token for the beginning, so that a word of one token is at the first position, where states are giant in most layers (norms of 21,000 beside 190 at layer 15), and words of several tokens are not.
"""
