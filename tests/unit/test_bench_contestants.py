"""Who is compared in the benches: the made-up model, `generate`, and engines behind their seam."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import models, tokens, workloads
from bench.answers import Comparison, TextComparison, find_difference
from bench.arrivals import run_arrivals
from bench.contestants import Generate, Run, Served, check_ends
from bench.memory import run_long
from bench.wording import QUESTIONS, RULES
from bench.workloads import Studio
from workers.engine.fake import FakeEngine
from workers.engine.loader import LoadedModel, load_model
from workers.engine.protocol import Done, EngineFailure
from workers.engine.static import StaticBatchEngine


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(models.build_model("tiny", tmp_path_factory.mktemp("models")), threads=1)


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(tmp_path, (64, 96))


def test_a_tokenizer_has_the_size_asked_for_and_is_the_same_every_time() -> None:
    one, two = (tokens.build_tokenizer(1500, [*QUESTIONS, *RULES]) for _ in range(2))
    assert len(one) == len(one.get_vocab()) == 1500
    assert one.get_vocab() == two.get_vocab()
    text = QUESTIONS[0]
    assert one.decode(one.encode(text)) == text
    assert len(one.encode(" ".join(RULES))) < len(" ".join(RULES)) / 3


def test_what_a_model_may_write_is_readable(loaded: LoadedModel) -> None:
    tokenizer = loaded.processing.tokenizer
    unwritten = set(tokens.find_unwritten(tokenizer))
    assert loaded.eos_ids <= unwritten
    written = [token for token in range(len(tokenizer)) if token not in unwritten]
    assert len(written) > 700
    assert all(tokenizer.decode([token]).isprintable() for token in written)
    embedding = loaded.model.get_input_embeddings().weight
    assert not embedding[sorted(unwritten)].any()
    assert embedding[written].any(dim=1).all()


def test_a_model_folder_is_made_once(tmp_path: Path) -> None:
    folder = models.build_model("tiny", tmp_path)
    weights = folder / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert models.build_model("tiny", tmp_path) == folder
    assert weights.stat().st_mtime_ns == before
    (folder / "shape.json").write_text("{}")
    models.build_model("tiny", tmp_path)
    assert weights.stat().st_mtime_ns != before


def test_generate_and_our_engine_give_the_same_answers_of_the_length_asked_for(
    loaded: LoadedModel, studio: Studio
) -> None:
    workload, warm = workloads.ragged(studio, 5), workloads.warm_up(studio, 1)
    served = Served("static", "", lambda: StaticBatchEngine(loaded, slots=4), 4)
    comparison = Comparison(loaded)
    for contestant in (Generate(loaded, 1, 3), Generate(loaded, 4), served):
        run = contestant.run(workload.requests, warm)
        comparison.add(contestant.name, workload.requests, run.answers)
        assert run.rate > 0
        lengths = {request.id: request.max_tokens for request in workload.requests}
        assert all(len(answer) == lengths[name] for name, answer in run.answers.items())
    found = comparison.as_json()
    assert [(entry["of"], entry["equal"]) for entry in found.values()] == [(3, 3), (5, 5), (5, 5)]


def test_a_difference_is_found_and_measured(loaded: LoadedModel, studio: Studio) -> None:
    requests = workloads.uniform(studio, 1).requests
    answers = Generate(loaded, 1).run(requests, ()).answers
    (name, right), comparison = next(iter(answers.items())), Comparison(loaded)
    wrong = (*right[:5], (right[5] + 1) % 200, *right[6:])
    comparison.add("one", requests, answers)
    comparison.add("other", requests, {name: wrong})
    place = comparison.as_json()["other"]["differences"][name]
    assert place["place"] == 5
    assert place["gap"] > 0
    assert place["tie"] is False


def test_a_text_that_differs_is_traced_to_the_token_where_it_does(loaded: LoadedModel, studio: Studio) -> None:
    requests = workloads.uniform(studio, 2).requests
    answers = Generate(loaded, 1).run(requests, ()).answers
    decode = loaded.processing.tokenizer.decode
    texts = {name: decode(list(tokens)) for name, tokens in answers.items()}
    name, tokens = next(iter(answers.items()))
    cut = decode(list(tokens[:4]))
    comparison = TextComparison(loaded)
    comparison.add(requests, Run(1.0, 1.0, answers, texts=texts), texts | {name: f"{cut} \u2603"})
    found = comparison.as_json()
    assert (found["of"], found["equal"]) == (2, 1)
    assert found["differences"][name]["place"] == 4
    assert found["differences"][name]["gap"] > 0


def test_the_first_difference_of_two_sequences() -> None:
    assert find_difference([1, 2, 3], [1, 9, 3]) == 1
    assert find_difference([1, 2], [1, 2, 3]) == 2


def test_an_answer_that_ends_by_itself_stops_the_bench() -> None:
    check_ends([Done("a", "", "length")])
    with pytest.raises(RuntimeError, match="request b did not run to its length: stop"):
        check_ends([Done("b", "", "stop")])
    with pytest.raises(RuntimeError, match="too large"):
        check_ends([Done("c", "", "error", EngineFailure("x", "too large"))])


def test_latencies_count_from_when_a_request_was_due(loaded: LoadedModel, studio: Studio) -> None:
    requests = workloads.uniform(studio, 3).requests
    served = Served("static", "", lambda: StaticBatchEngine(loaded, slots=4), 4)
    found = run_arrivals(served, requests, [0.0, 0.01, 0.02], workloads.warm_up(studio, 1))
    assert len(found.end_s) == len(found.first_token_s) == 3
    assert all(0 < first <= end for first, end in zip(found.first_token_s, found.end_s, strict=True))
    named = found.percentiles()
    assert named["latency_p50_s"] <= named["latency_p99_s"] <= found.seconds


def test_a_long_run_counts_every_end(studio: Studio) -> None:
    lengths = workloads.draw_lengths(60)
    engine = FakeEngine(slots=4)
    try:
        found = run_long(engine, lambda number: workloads.single(studio, number, lengths[number]), 60, 4)
    finally:
        engine.close()
    assert sum(found["ended"].values()) == found["requests"] == 60
    assert len(found["resident_mib"]) > 10
    assert min(found["resident_mib"]) > 0
