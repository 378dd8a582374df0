import itertools
from dataclasses import replace

import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.quantisation import QuantisationSettings
from lit_vlm.models.support_matrix import check_support

FULL = Backbone(dtype="bfloat16")
LORA = replace(FULL, adapter=AdapterSettings(dtype="same"))
NF4 = replace(LORA, quantisation=QuantisationSettings(storage="bfloat16"))
INT8 = replace(LORA, quantisation=QuantisationSettings(kind="int8"))
SUPPORTED = {
    "single": (FULL, LORA, NF4, INT8),
    "ddp": (FULL, LORA, NF4, INT8),
    "deepspeed": (FULL, LORA, NF4, INT8),
    "fsdp1": (FULL, LORA, NF4),
    "fsdp2": (FULL, LORA),
    "deepspeed_3": (FULL, LORA),
}


@pytest.mark.parametrize(("strategy", "backbone"), list(itertools.product(SUPPORTED, (FULL, LORA, NF4, INT8))))
def test_the_matrix(strategy, backbone):
    if backbone in SUPPORTED[strategy]:
        check_support(strategy, backbone)
    else:
        with pytest.raises(UserError, match="ddp"):
            check_support(strategy, backbone)


@pytest.mark.parametrize(
    ("backbone", "mend"),
    [
        (replace(LORA, adapter=AdapterSettings()), "adapter.dtype same"),
        (replace(LORA, dtype="auto"), r"name model\.backbone\.dtype"),
        (replace(NF4, quantisation=QuantisationSettings()), "storage bfloat16"),
    ],
)
def test_fsdp_needs_one_type_of_weights(backbone, mend):
    check_support("ddp", backbone)
    with pytest.raises(UserError, match=mend):
        check_support("fsdp1", backbone)


def test_an_adapter_is_not_checkpointed_under_deepspeed_stage_3():
    for backbone in (replace(LORA, gradient_checkpointing=True),):
        check_support("deepspeed", backbone)
        with pytest.raises(UserError, match="gradient_checkpointing"):
            check_support("deepspeed_3", backbone)
    check_support("deepspeed_3", replace(FULL, gradient_checkpointing=True))
