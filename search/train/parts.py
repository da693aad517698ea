"""Parts from outside the project, tried before anything is trained with them."""

from collections.abc import Iterable

from space.arch import Architecture
from space.doors import place_of
from space.words import join


def require_parts(architectures: Iterable[Architecture]) -> None:
    """Each part from outside builds what it counts, and its model learns: one architecture with it
    does a forward and a backward pass over two tokens.

    Raises:
        ValueError: it does not.
    """
    tried: set[str] = set()
    for arch in architectures:
        outside = {setting.name for setting in arch.parts if setting.outside}
        if not outside <= tried:
            tried |= outside
            _try(arch, outside)


def _try(arch: Architecture, outside: Iterable[str]) -> None:
    import torch  # seconds, and only studies with such parts need it here

    from space.model import Decoder, token_nll

    try:
        model = Decoder(arch)
        ids = torch.zeros((1, 2), dtype=torch.long)
        loss = token_nll(model.hidden(ids), model.lm_head.weight, ids, model.finish).mean()
        loss.backward()  # type: ignore[no-untyped-call]
    except Exception as error:
        place = place_of(error)
        if place is None and isinstance(error, ValueError):
            raise
        said = place or f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(
            f"a model with {join(sorted(outside))} must compute a loss and its gradients, but got "
            f"{said}; correct what its build does"
        ) from error
