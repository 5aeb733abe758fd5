"""When a fold has trained for so long without a gain that it stops."""


def is_patience_over(
    epoch: int, best_epoch: int, best: float, untrained: float | None, patience: int
) -> bool:
    """Whether a fold stops after a validation.

    As in powerful-benchmarker, patience is counted from the best validation of all, the earlier
    one of equals, and epoch 0 is one of them: until training has beaten the untrained model, it is
    counted from epoch 0. The score and the kept model are those of the best epoch that was trained.

    Args:
        epoch: of the validation.
        best_epoch: epoch of the best validation of the trained model so far.
        best: MAP@R of that validation.
        untrained: MAP@R of epoch 0; None where the untrained model is not validated.
        patience: epochs that may pass without a gain.
    """
    since = 0 if untrained is not None and untrained >= best else best_epoch
    return epoch - since > patience
