"""The market as a game: account rules, environments, one learner, evaluation."""
