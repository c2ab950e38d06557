"""The job runner: knows processes, files and clouds; never imports training, ppo or a numeric library."""
