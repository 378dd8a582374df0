"""What operations that find their own weights ask of the donors."""

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import DonorTensor, MergeTensors


def without_weights(tensors: MergeTensors, operation: str) -> list[DonorTensor]:
    """Returns the donors that take part, refusing weights that the operation would not read.

    Args:
        tensors: One weight of all models.
        operation: Its name, for the message.

    Raises:
        UserError: A donor has a weight that is neither 0, which leaves it out, nor 1.
    """
    for index, donor in enumerate(tensors.donors):
        if donor.weight not in (0.0, 1.0):
            raise UserError(
                f"{operation} finds its own weights, but donor {index + 1} has weight {donor.weight} for "
                f"{tensors.place.name}; leave it out, or write 0 where the donor is to take no part"
            )
    return [donor for donor in tensors.donors if donor.weight == 1]


def both(tensors: MergeTensors, operation: str, *, weighted: bool = False) -> tuple[DonorTensor, DonorTensor]:
    """Returns the two donors of an operation that merges just two.

    Args:
        tensors: One weight of all models.
        operation: Its name, for the message.
        weighted: Whether it reads the donors' weights; otherwise both must be 1.

    Raises:
        UserError: There are not two, or they have weights that would not be read.
    """
    if len(tensors.donors) != 2:
        raise UserError(f"{operation} merges exactly two donors; {tensors.place.name} has {len(tensors.donors)}")
    if not weighted and len(without_weights(tensors, operation)) != 2:
        raise UserError(
            f"{operation} needs both donors, but one has weight 0 for {tensors.place.name}; write it for both, where "
            "the target's weight is to stay, or for none"
        )
    return tensors.donors[0], tensors.donors[1]
