"""Rules about several keys of a config: what is right alone but does not go together.

A rule gets the flat dict {dotted name: value} of the values that are right alone, and yields one ConfigError for each
thing that does not fit, with the fix. A new rule is a function in the file of its idea and an entry in RULES there. A
key that is wrong or missing is not in the dict; reading it raises KeyError, which ends the rule in silence, as that is
reported already.
"""

from xsample_jax.config import rules_data, rules_evaluation, rules_loss, rules_model, rules_objective, rules_training

RULES = (
    *rules_training.RULES,
    *rules_objective.RULES,
    *rules_loss.RULES,
    *rules_data.RULES,
    *rules_model.RULES,
    *rules_evaluation.RULES,
)
