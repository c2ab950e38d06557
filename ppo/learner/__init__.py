"""The one learner: PPO with action masks, its state in one object."""
