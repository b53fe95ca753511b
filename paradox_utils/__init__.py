"""Helper package of the accuracy-paradox book: segment rewards, PPO on them, and the study around them."""
