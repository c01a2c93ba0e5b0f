"""The operations of a network that int8 files can have, checked before training."""

from __future__ import annotations

from collections import Counter

from torch import fx, nn

from edge_siamese.errors import ExportError, SettingsError
from export.conversion.graph import fold_batch_norm, fold_pixel_scaling, module_of, operation_of
from export.encoders import EncoderNetwork

CONVERTIBLE = frozenset(
    {
        "conv2d", "linear", "batchnorm2d", "layer_norm", "relu", "relu6", "hardswish",
        "hardsigmoid", "sigmoid", "tanh", "silu", "gelu", "add", "sub", "mul", "cat", "chunk", "getitem", "mean",
        "maxpool2d", "avgpool2d", "zeropad2d", "flatten", "reshape", "permute", "transpose",
    }
)  # fmt: skip
"""Operations that both quantizers convert; `tests/export/conversion/test_operations.py` converts each of them."""
REMEDY = "choose a network of convolutions, such as timm:mobilenetv4_conv_small, or cut this one earlier with :stageN"


def require_convertible(encoder: EncoderNetwork) -> None:
    """Require that all operations of an encoder can be converted to int8.

    Raises:
        SettingsError: some cannot, which the error names, or the network cannot be traced.
    """
    if not encoder.trainable:  # an ONNX file, whose operations onnxruntime implements
        return
    try:
        folded = fold_pixel_scaling(fold_batch_norm(encoder))
    except ExportError as error:
        raise SettingsError(
            f"{encoder.name} cannot be converted: its operations depend on the picture ({error}); {REMEDY}"
        ) from error
    if unsupported := _unsupported(folded):
        raise SettingsError(f"{encoder.name} cannot be converted to int8: {unsupported}; {REMEDY}")


def _unsupported(folded: fx.GraphModule) -> str:
    """`OPERATION (COUNT, first after LAYER)` for each operation that is not convertible, the most frequent first."""
    counts, places = Counter[str](), dict[str, str]()
    last = ""
    for node in folded.graph.nodes:
        if node.op not in ("call_module", "call_function", "call_method"):
            continue
        operation = operation_of(folded, node)
        pooling = module_of(folded, node)
        if isinstance(pooling, nn.MaxPool2d) and pooling.padding not in (0, (0, 0)):
            operation = "padded maxpool2d"  # with minus infinity
        if operation not in CONVERTIBLE:
            counts[operation] += 1
            places.setdefault(operation, f"first after {last}" if last else "at the input")
        if node.op == "call_module":
            last = str(node.target).removeprefix("network.")
    return ", ".join(f"{name} ({count} times, {places[name]})" for name, count in counts.most_common())
