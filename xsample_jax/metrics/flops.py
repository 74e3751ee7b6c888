"""Model FLOPs of a train step, for the utilisation of the chips (MFU; Chowdhery et al., arXiv 2204.02311, app. B)."""

import dataclasses


def model_flops(parts) -> float:
    """FLOPs of one step over all devices, as the program says before it is compiled: nothing is compiled for it.

    Work that is done twice to save memory does not count, so a config with rematerialisation or GradCache is traced
    once more without. A loop counts as one of its passes, which leaves out most of a streamed loss.
    """
    config = parts.config
    if config.model.remat != "none" or config.loss.grad_cache > 1:
        config = config.copy_and_resolve_references()
        with config.unlocked():
            config.model.remat, config.loss.grad_cache = "none", 1
        parts = dataclasses.replace(parts, config=config)
    lowered = parts.train_step.lower(parts.abstract_state, parts.abstract_batch)
    return float(lowered.cost_analysis()["flops"])
