"""Tokens one after the other out of a bundle: equal to torch's, given up in between, side by side."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import edgefuse
from edgefuse.cli import main
from edgefuse.errors import BackendError, BundleError, InputError
from edgefuse.runtime import side_by_side
from edgefuse.runtime.generation import beams, tokens
from edgefuse.runtime.generation.config import GenerationConfig
from edgefuse.runtime.generation.step import Logits, log_probabilities
from edgefuse.runtime.pipeline import Pipeline, load
from edgefuse.runtime.side_by_side import Times
from tests.decoders import STEPS, CachedDecoder, LstmDecoder, answer_of, generating, inputs_of

KINDS = {"lstm": LstmDecoder, "cached": CachedDecoder}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("generating")
    made = {}
    for name, kind in KINDS.items():
        for target in ("onnx", "tflite"):
            model, out = generating(kind), folder / f"{name}-{target}.edgefuse"
            edgefuse.export(model, model.spec, target, out=out, cache=folder / "cache")
            made[f"{name}-{target}"] = out
    return made


@pytest.fixture(params=[f"{kind}-{target}" for kind in KINDS for target in ("onnx", "tflite")])
def pipeline(request: pytest.FixtureRequest, bundles: dict[str, Path]) -> Iterator[Pipeline]:
    with load(bundles[request.param]) as opened:
        yield opened


def test_greedy_tokens_are_those_of_torch(pipeline: Pipeline, request: pytest.FixtureRequest) -> None:
    model = generating(KINDS[request.node.callspec.params["pipeline"].split("-")[0]])
    for seed in range(25):
        expected = answer_of(model, inputs_of(seed))
        assert [token.id for token in pipeline.generate(**inputs_of(seed))] == expected


def test_tokens_are_the_same_where_encoders_run_side_by_side(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("left", "right")
    faster = Times(dict.fromkeys(names, 1.0), dict.fromkeys(names, 1.0), 0.5)
    monkeypatch.setattr(side_by_side, "measured", lambda *_, **__: (faster, []))
    monkeypatch.setattr("edgefuse.runtime.backends.backend.checked_threads", lambda threads: threads)
    with load(bundles["lstm-onnx"]) as one, load(bundles["lstm-onnx"], threads=2) as two:
        for seed in range(5):
            assert list(two.generate(**inputs_of(seed))) == list(one.generate(**inputs_of(seed)))
            assert two(**inputs_of(seed)).text == one(**inputs_of(seed)).text
        assert two._opened is not None
        assert two._opened.helper is not None
        assert two._opened.helper._thread is not None


def test_what_each_modality_added_is_not_told_of_tokens(pipeline: Pipeline) -> None:
    with pytest.raises(InputError, match=r"of a model that makes one token after the other\. Fix: compare"):
        pipeline.explain(**inputs_of(0))


def test_several_sequences_are_refused_before_the_first_token(pipeline: Pipeline) -> None:
    with pytest.raises(InputError, match="num_return_sequences has no effect where tokens come one after the other"):
        pipeline.generate(GenerationConfig(num_beams=2, num_return_sequences=2), **inputs_of(0))


def test_more_beams_find_what_is_at_least_as_likely(pipeline: Pipeline) -> None:
    for seed in range(6):
        greedy, beams = (
            sum(token.logprob for token in pipeline.generate(config, **inputs_of(seed)))
            for config in (GenerationConfig(), GenerationConfig(num_beams=12, length_penalty=0.0))
        )
        assert beams >= greedy - 1e-5


def test_a_seed_draws_the_same_tokens_again(pipeline: Pipeline) -> None:
    config = GenerationConfig(do_sample=True, temperature=2.0, top_k=8, seed=3)
    first, again = (pipeline.generate(config, **inputs_of(1)) for _ in range(2))
    assert [token.id for token in first] == [token.id for token in again]
    assert first.text == again.text


def test_one_that_is_given_up_leaves_nothing(pipeline: Pipeline) -> None:
    whole = [token.id for token in pipeline.generate(**inputs_of(2))]
    with pipeline.generate(**inputs_of(2)) as generation:
        begun = [token.id for token in islice(generation, 2)]
    assert begun == whole[:2]
    assert list(generation) == []
    assert [token.id for token in pipeline.generate(**inputs_of(2))] == whole


def test_several_take_turns(pipeline: Pipeline) -> None:
    alone = [[token.id for token in pipeline.generate(**inputs_of(seed))] for seed in range(4)]
    together = [pipeline.generate(**inputs_of(seed)) for seed in range(4)]
    told: list[list[int]] = [[] for _ in together]
    for _ in range(STEPS):
        for generation, ids in zip(together, told, strict=True):
            ids += [token.id for token in islice(generation, 1)]
    assert told == alone
    results: dict[int, list[int]] = {}

    def run(seed: int) -> None:
        results[seed] = [token.id for token in pipeline.generate(**inputs_of(seed))]

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[seed] for seed in range(4)] == alone


@pytest.mark.parametrize("config", [GenerationConfig(), GenerationConfig(num_beams=3)])
def test_another_thread_gives_it_up(
    bundles: dict[str, Path], config: GenerationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with load(bundles["lstm-onnx"]) as pipeline:
        whole = [token.id for token in pipeline.generate(config, **inputs_of(2))]
        generation = pipeline.generate(config, **inputs_of(2))
        chosen, steps = log_probabilities, 0

        def closing(logits: Logits, of: str) -> npt.NDArray[np.float64]:
            nonlocal steps
            steps += 1
            if steps == 2:  # within a step, as far as the generation can tell
                thread = threading.Thread(target=generation.close)
                thread.start()
                thread.join()
            return chosen(logits, of)

        for module in (beams, tokens):
            monkeypatch.setattr(module, "log_probabilities", closing)
        told = [token.id for token in generation]
        assert steps <= 4  # with beams, those of the same position may follow
        assert told == ([] if config.num_beams > 1 else whole[:2])
        assert list(generation) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("config", [GenerationConfig(), GenerationConfig(num_beams=3)])
def test_a_forked_child_does_not_go_on(bundles: dict[str, Path], config: GenerationConfig) -> None:
    with load(bundles["lstm-onnx"]) as pipeline:
        whole = [token.id for token in pipeline.generate(config, **inputs_of(2))]
        generation = pipeline.generate(config, **inputs_of(2))
        begun = [] if config.num_beams > 1 else [next(generation).id]
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            said = "it went on"
            try:
                next(generation)
            except BackendError as error:
                said = str(error)
            finally:
                os.write(writing, said.encode())
                os._exit(0)
        os.waitpid(child, 0)
        assert "opened before a fork" in os.read(reading, 1000).decode()
        for end in (reading, writing):
            os.close(end)
        assert begun + [token.id for token in generation] == whole


def test_what_is_no_config_is_refused(pipeline: Pipeline) -> None:
    for other in ({"num_beams": 2}, {}, "num_beams=2"):
        with pytest.raises(
            InputError, match=r"this does not say how tokens are chosen: got (dict|str), expected a Gen"
        ):
            pipeline.generate(other, **inputs_of(0))  # type: ignore[arg-type] # that is the point


def test_it_ends_with_the_most_tokens_that_are_asked_for(pipeline: Pipeline) -> None:
    assert len(list(pipeline.generate(GenerationConfig(max_new_tokens=1), **inputs_of(0)))) == 1
    with pytest.raises(InputError, match=f"expected at most {STEPS}"):
        list(pipeline.generate(GenerationConfig(max_new_tokens=STEPS + 1), **inputs_of(0)))


def test_a_closed_pipeline_makes_no_more(bundles: dict[str, Path]) -> None:
    pipeline = load(bundles["lstm-onnx"])
    generation = pipeline.generate(**inputs_of(0))
    next(generation)
    pipeline.close()
    with pytest.raises(InputError, match="this pipeline is closed"):
        next(generation)


def test_a_model_without_a_decoder_says_so(load_tiny: Callable[..., Pipeline]) -> None:
    with load_tiny() as pipeline, pytest.raises(InputError, match="makes no tokens one after the other"):
        pipeline.generate(image=np.zeros((4, 4, 1), np.uint8))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros((1, STEPS + 1), np.int32), "are of another form: got int32"),
        (np.zeros((1, 2), np.int64), "are of another form: got int64"),
        (np.array([[0, 12]], np.int32), "is none: got 0 to 12, expected 0 to 11"),
        (np.array([[-1]], np.int32), "is none"),
    ],
)
def test_tokens_that_are_none_are_refused(
    pipeline: Pipeline, tokens: np.ndarray[tuple[int, int], np.dtype[np.int32]], message: str
) -> None:
    inputs = pipeline.preprocess(**inputs_of(0))
    given = edgefuse.Inputs(values={**inputs.values, "token": tokens}, present=inputs.present)
    with pytest.raises(InputError, match=message):
        pipeline.infer(given)
    assert pipeline.infer(inputs)


def test_a_bundle_that_lies_about_a_state_is_refused(bundles: dict[str, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(bundles["lstm-onnx"]) as archive:
        archive.extractall(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (state,) = (port for port in manifest["stages"][-1]["outputs"] if port["initial"])
    state["initial"]["tensor"] = "nothing"
    text = json.dumps(manifest, indent=2, sort_keys=True).encode() + b"\n"
    (tmp_path / "manifest.json").write_bytes(text)
    (tmp_path / "manifest.sha256").write_text(f"{hashlib.sha256(text).hexdigest()}  manifest.json\n")
    with pytest.raises(BundleError, match="'next_h' of the stage 'decoder' begins with what is not of its"):
        load(tmp_path)


def test_the_command_line_makes_them(
    bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = []
    for name, value in inputs_of(5).items():
        np.save(tmp_path / f"{name}.npy", value)
        given += [f"--{name}", str(tmp_path / f"{name}.npy")]
    bundle = str(bundles["cached-onnx"])
    assert main(["run", bundle, *given, "--json"]) == 0
    greedy = json.loads(capsys.readouterr().out)
    assert main(["run", bundle, *given, "--generate", "max_new_tokens=6", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["text"] == greedy["text"]
    assert len(told["tokens"]) <= STEPS
    assert 0 < told["first_token_ms"] <= told["all_ms"]
    for wrong, said in [
        (["beams=4"], "--generate takes no such setting: got 'beams=4'"),
        ([f"num_beams={100_000 * '['}"], "num_beams is out of range"),
        (["do_sample=true", f"temperature=1{400 * '0'}"], "temperature is out of range"),
        (["num_beams=2", "num_beams=3"], "--generate takes num_beams once: got 2, '3'."),
        (["num_beams=3", "num_return_sequences=2"], "num_return_sequences has no effect"),
    ]:
        assert main(["run", bundle, *given, *(part for pair in wrong for part in ("--generate", pair))]) == 2
        told_of = capsys.readouterr().err
        assert said in told_of
        assert len(told_of) < 400


def test_bench_says_how_fast_tokens_come(bundles: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    bundle, other = str(bundles["lstm-onnx"]), str(bundles["lstm-tflite"])
    assert main(["bench", bundle, "--against", other, "--rounds", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["baseline"]
    for rate in told["tokens"].values():
        assert rate["tokens"] == STEPS
        assert rate["first_token_ms"] > 0
        assert rate["tokens_per_second"] > 0
