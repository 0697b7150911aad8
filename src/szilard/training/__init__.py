"""The one training loop, and what every trainable part needs around it: configs, corpora, features, add-ons."""
