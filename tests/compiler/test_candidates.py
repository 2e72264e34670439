"""Which schemes are tried on a stage."""

from __future__ import annotations

from edgefuse.bundle.spec import DType, Source, StageInput, StageSpec, TensorSpec
from edgefuse.compiler.candidates import wanted_schemes
from edgefuse.quantize.onnx import OnnxQuantizer
from edgefuse.quantize.schemes import INT4, INT4_TABLE


def encoder(dtype: DType) -> StageSpec:
    tensor = TensorSpec(name="x", dtype=dtype, shape=(1, 8))
    port = StageInput(tensor=tensor, source=Source(kind="modality", owner="own", tensor="x"))
    return StageSpec(name="own_encoder", role="encoder", inputs=(port,), outputs=(), modality="own")


def test_for_size_weights_in_four_bits_are_tried_and_tables_alone_where_ids_come_in() -> None:
    quantizer = OnnxQuantizer()
    offered = quantizer.schemes(encoder("int32"))
    assert wanted_schemes(quantizer, encoder("int32"), "size", {}) == (*offered, INT4_TABLE, INT4)
    assert wanted_schemes(quantizer, encoder("float32"), "size", {}) == (*offered, INT4)
    assert wanted_schemes(quantizer, encoder("int32"), "latency", {}) == offered


def test_a_recipe_names_a_table_in_four_bits() -> None:
    named = {"own_encoder": ("dynamic_wi8_af32.table4",)}
    assert wanted_schemes(OnnxQuantizer(), encoder("int32"), "latency", named) == (INT4_TABLE,)
