"""The server engine against a real vLLM on a small random Llama: equal to transformers, and clear about what goes wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from random import Random
from string import printable

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from distill.chat import prompt_ids, stop_ids
from distill.config import ConfigError
from distill.embedded.tokenizer import train_tokenizer
from distill.engines.protocol import Answer, Request
from distill.engines.server import ServerEngine, open_server
from distill.records import JsonObject, Message
from tests.fault_proxy import running_proxy
from tests.vllm_server import StartVllm, VllmServer, free_port
from tests.web_server import QuietHandler, running_web_server

KEY = "sk-test-3141592653589793"
OTHER_KEY = "sk-test-2718281828459045"
TEXTS = ["Find a film by title and year.", "movies.search(title='Alien', year=1979)", "Which concerts are on tonight?"]

pytestmark = pytest.mark.timeout(600)
open_quickly = partial(open_server, max_concurrency=8, request_timeout_s=120.0, max_attempts=3, wait_for_server_s=5.0)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS)


@pytest.fixture(scope="module")
def network(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A random Llama that says printable ASCII only, since half a UTF-8 sequence is no text, and ends its turn now and then."""
    spoken = [index for index in range(len(tokenizer)) if all(c in printable for c in tokenizer.decode([index]))]
    end_of_turn = stop_ids(tokenizer)[0]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=4096,
        initializer_range=0.2,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model: LlamaForCausalLM = LlamaForCausalLM(config)
        model.eval()
        silent = torch.ones(len(tokenizer), dtype=torch.bool)
        silent[spoken] = False
        silent[tokenizer.all_special_ids] = True
        model.lm_head.weight[silent] = 0.0
        model.lm_head.weight[end_of_turn].normal_(std=0.2)
    # What a server would sample with, were it not told otherwise: always the likeliest token, and none twice.
    model.generation_config = GenerationConfig(
        do_sample=True, top_k=1, repetition_penalty=5.0, eos_token_id=end_of_turn
    )
    return model


@pytest.fixture(scope="module")
def server(
    network: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    start_vllm: StartVllm,
    tmp_path_factory: pytest.TempPathFactory,
) -> VllmServer:
    folder = tmp_path_factory.mktemp("models") / "random-llama"
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    flags = ("--max-logprobs", "-1", "--enable-prompt-tokens-details")
    return start_vllm(folder, "--dtype", "float32", "--enforce-eager", "--api-key", KEY, *flags)


@pytest.fixture
def engine(server: VllmServer, tokenizer: PreTrainedTokenizerFast) -> Iterator[ServerEngine]:
    opened = open_quickly(base_urls=[server.base_url], model=server.model, api_key=KEY, stop_ids=stop_ids(tokenizer))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def make_requests(tokenizer: PreTrainedTokenizerFast) -> Callable[[int], list[Request]]:
    def make(count: int) -> list[Request]:
        requests = []
        for number in range(count):
            content = " ".join(Random(number).choices(" ".join(TEXTS).split(), k=4 + number))
            ids = tuple(prompt_ids([Message(role="user", content=content)], tokenizer))
            requests.append(
                Request(
                    key=f"key-{number}",
                    prompt_id=f"prompt-{number}",
                    prompt_ids=ids,
                    num_samples=1,
                    sampling_temperature=0.0,
                    max_new_tokens=48,
                    seed=number,
                )
            )
        return requests

    return make


@pytest.mark.vllm
def test_greedy_completions_equal_transformers(
    engine: ServerEngine,
    network: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    make_requests: Callable[[int], list[Request]],
) -> None:
    requests = make_requests(20)
    completions = {
        answer.request.key: answer.completions[0] for answer in chain.from_iterable(engine.complete(requests))
    }
    expected_ids = {request.key: _greedy_ids(network, request, stop_ids(tokenizer)) for request in requests}
    for request in requests:
        ids, completion = expected_ids[request.key], completions[request.key]
        stopped = ids[-1] in stop_ids(tokenizer)
        assert completion.text == tokenizer.decode(ids, skip_special_tokens=True)
        assert completion.finish_reason == ("stop" if stopped else "length")
        assert completion.num_completion_tokens == len(ids)
        assert completion.num_prompt_tokens == len(request.prompt_ids)
    assert {completion.finish_reason for completion in completions.values()} == {"stop", "length"}


@pytest.mark.vllm
def test_sample_k_is_the_single_sample_of_seed_plus_k(
    engine: ServerEngine, make_requests: Callable[[int], list[Request]]
) -> None:
    request = replace(make_requests(1)[0], num_samples=3, sampling_temperature=1.0, max_new_tokens=24)
    (together,) = chain.from_iterable(engine.complete([request]))
    singly = [replace(request, key=str(k), num_samples=1, seed=request.seed + k) for k in range(3)]
    by_key = {answer.request.key: answer for answer in chain.from_iterable(engine.complete(singly))}
    assert together.error is None
    assert together.completions == tuple(by_key[str(k)].completions[0] for k in range(3))
    assert len({completion.text for completion in together.completions}) == 3


@pytest.mark.vllm
def test_log_probabilities_of_all_tokens_are_the_models_those_that_decode_alike_too(
    engine: ServerEngine,
    network: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    make_requests: Callable[[int], list[Request]],
) -> None:
    everything = len(tokenizer)
    texts = [tokenizer.decode([index]) for index in range(everything)]
    assert len(set(texts)) < everything, "some tokens decode alike"
    requests = [
        replace(request, num_logprobs=everything, num_samples=2, sampling_temperature=1.0, max_new_tokens=6)
        for request in make_requests(4)
    ]
    for answer in chain.from_iterable(engine.complete(requests)):
        assert answer.error is None and len(answer.completions) == 2
        for completion in answer.completions:
            told = completion.logprobs
            assert told is not None and len(told.token_ids) == completion.num_completion_tokens == len(told.top_ids)
            assert str(tokenizer.decode(list(told.token_ids), skip_special_tokens=True)).startswith(completion.text)
            expected = _logprobs_behind(network, answer.request.prompt_ids, told.token_ids)
            for place, ids, values in zip(expected, told.top_ids, told.top_logprobs, strict=True):
                assert sorted(ids) == list(range(everything))
                assert list(values) == pytest.approx(place[list(ids)].tolist(), abs=2e-4)


@pytest.mark.vllm
def test_scores_are_the_models_log_probabilities_of_the_given_text(
    engine: ServerEngine,
    network: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    make_requests: Callable[[int], list[Request]],
) -> None:
    scored = tuple(tokenizer.encode("movies.search(title='Alien')", add_special_tokens=False)) + stop_ids(tokenizer)[:1]
    requests = [replace(request, num_logprobs=3, scored_ids=scored) for request in make_requests(4)]
    answers = list(chain.from_iterable(engine.complete(requests)))
    assert len(answers) == 4
    for answer in answers:
        (completion,) = answer.completions
        told = completion.logprobs
        assert told is not None and told.token_ids == scored
        expected = _logprobs_behind(network, answer.request.prompt_ids, scored)
        for place, token, ids, values in zip(expected, scored, told.top_ids, told.top_logprobs, strict=True):
            found = dict(zip(ids, values, strict=True))
            assert found[token] == pytest.approx(float(place[token]), abs=2e-4)
            assert set(place.topk(3).indices.tolist()) <= set(ids)


@pytest.mark.vllm
def test_a_beginning_that_was_read_before_is_told_as_cached(
    engine: ServerEngine, make_requests: Callable[[int], list[Request]]
) -> None:
    (request,) = make_requests(1)
    long = replace(request, prompt_ids=request.prompt_ids[:3] * 100 + request.prompt_ids, max_new_tokens=1)
    first, again = (next(chain.from_iterable(engine.complete([long]))) for _ in range(2))
    assert first.num_cached_tokens == 0 and again.num_cached_tokens is not None
    assert len(long.prompt_ids) - 128 <= again.num_cached_tokens < len(long.prompt_ids)


@pytest.mark.vllm
def test_parameters_of_vllm_are_passed_through_by_name(
    engine: ServerEngine, make_requests: Callable[[int], list[Request]]
) -> None:
    request = replace(make_requests(3)[2], sampling_temperature=2.0)
    given: list[JsonObject] = [{}, {"top_k": 1}, {"top_k": "many"}]
    free, bound, unknown = (
        next(chain.from_iterable(engine.complete([replace(request, sampling_parameters=parameters)])))
        for parameters in given
    )
    greedy = next(chain.from_iterable(engine.complete([replace(request, sampling_temperature=0.0)])))
    assert bound.completions == greedy.completions != free.completions
    assert unknown.error is not None and unknown.error.startswith("HTTP 400") and "top_k" in unknown.error


@pytest.mark.vllm
def test_a_bad_request_is_answered_with_its_error_and_stops_no_other(
    engine: ServerEngine, make_requests: Callable[[int], list[Request]]
) -> None:
    requests = make_requests(8)
    requests[2] = replace(requests[2], prompt_ids=requests[2].prompt_ids * 200)
    requests[5] = replace(requests[5], prompt_ids=(*requests[5].prompt_ids, 10**6))
    answers = list(chain.from_iterable(engine.complete(requests)))
    errors = {answer.request.key: answer.error for answer in answers if answer.error is not None}
    assert sorted(answer.request.key for answer in answers) == sorted(request.key for request in requests)
    assert set(errors) == {"key-2", "key-5"}
    assert "the served context is 2048" in errors["key-2"]
    assert errors["key-5"].startswith("HTTP 400") and "out of vocabulary" in errors["key-5"]
    assert all(len(answer.completions) == (0 if answer.error else 1) for answer in answers)


@pytest.mark.vllm
def test_requests_are_taken_as_they_can_be_sent_and_in_their_order(
    server: VllmServer, tokenizer: PreTrainedTokenizerFast, make_requests: Callable[[int], list[Request]]
) -> None:
    one_at_a_time = open_quickly(
        base_urls=[server.base_url],
        model=server.model,
        api_key=KEY,
        max_concurrency=1,
        stop_ids=stop_ids(tokenizer),
    )
    taken: list[str] = []

    def give() -> Iterator[Request]:
        for request in make_requests(6)[::-1]:
            taken.append(request.key)
            yield replace(request, max_new_tokens=1)

    answered = []
    for answer in chain.from_iterable(one_at_a_time.complete(give())):
        answered.append(answer.request.key)
        assert len(taken) <= len(answered) + 2, "nothing is read ahead"
    one_at_a_time.close()
    assert answered == taken == [f"key-{number}" for number in reversed(range(6))]


@pytest.mark.vllm
def test_two_servers_share_the_work_and_one_goes_on_alone(
    server: VllmServer,
    tokenizer: PreTrainedTokenizerFast,
    make_requests: Callable[[int], list[Request]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    upstream = server.base_url.removesuffix("/v1")
    with ExitStack() as stack:
        one = stack.enter_context(running_proxy(upstream, tmp_path / "one.jsonl", rates={}))
        short_lived = ExitStack()
        other = short_lived.enter_context(running_proxy(upstream, tmp_path / "other.jsonl", rates={}))
        engine = open_quickly(
            base_urls=[one.base_url, other.base_url],
            model=server.model,
            api_key=KEY,
            stop_ids=stop_ids(tokenizer),
            max_concurrency=2,
            wait_for_server_s=1.0,
        )
        stack.callback(engine.close)
        answers: list[Answer] = []
        for answer in chain.from_iterable(engine.complete(make_requests(60))):
            answers.append(answer)
            if len(answers) == 20:
                short_lived.close()
        counts = [sum(entry.path == "/v1/completions" for entry in proxy.requests()) for proxy in (one, other)]
    assert [answer.error for answer in answers] == [None] * 60
    assert counts[1] >= 7, "a third of the first twenty at least"
    assert counts[0] >= 40
    assert f"goes on without {other.base_url}" in capsys.readouterr().err


@pytest.mark.vllm
def test_a_server_that_only_refuses_is_given_up_with_its_words(
    server: VllmServer,
    tokenizer: PreTrainedTokenizerFast,
    make_requests: Callable[[int], list[Request]],
    tmp_path: Path,
) -> None:
    upstream = server.base_url.removesuffix("/v1")
    for fault, found, least in (("503", "HTTP 503.*tried for", 2), ("500", "HTTP 500.*tried 3 times", 3)):
        with running_proxy(upstream, tmp_path / f"{fault}.jsonl", rates={fault: 1.0}) as proxy:
            engine = open_quickly(
                base_urls=[proxy.base_url],
                model=server.model,
                api_key=KEY,
                stop_ids=stop_ids(tokenizer),
                wait_for_server_s=1.0,
            )
            answers = list(chain.from_iterable(engine.complete(make_requests(3))))
            engine.close()
            asked = [entry for entry in proxy.requests() if entry.path == "/v1/completions"]
        assert all(answer.error is not None and re.search(found, answer.error) for answer in answers), answers[0].error
        assert len(asked) >= least * len(answers)


@pytest.mark.vllm
def test_a_dropped_iterator_leaves_the_engine_usable_and_close_ends_its_thread(
    engine: ServerEngine, make_requests: Callable[[int], list[Request]]
) -> None:
    requests = make_requests(20)
    answers = engine.complete(requests)
    next(answers)
    del answers
    assert len(list(chain.from_iterable(engine.complete(requests[:2])))) == 2
    assert list(chain.from_iterable(engine.complete([]))) == []
    engine.close()
    engine.close()
    assert not engine.background.thread.is_alive()


@pytest.mark.vllm
def test_a_model_that_is_not_served_is_named_with_those_that_are(server: VllmServer) -> None:
    with pytest.raises(ConfigError, match=r"'llama-405b'.*serves 'random-llama'.*--served-model-name llama-405b"):
        open_quickly(base_urls=[server.base_url], model="llama-405b", api_key=KEY, stop_ids=())


@pytest.mark.vllm
@pytest.mark.parametrize(("key", "found"), [(OTHER_KEY, "refuses the API key"), (None, "wants an API key")])
def test_a_refused_key_is_reported_and_never_shown(server: VllmServer, key: str | None, found: str) -> None:
    with pytest.raises(ConfigError, match=f"{found}.*api_key_env") as caught:
        open_quickly(base_urls=[server.base_url], model=server.model, api_key=key, stop_ids=())
    assert OTHER_KEY not in str(caught.value)


@pytest.mark.vllm
def test_the_key_is_not_in_the_engines_repr(engine: ServerEngine) -> None:
    assert KEY not in repr(engine)


def test_no_server_at_the_address() -> None:
    address = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(ConfigError, match=rf"{address}: no server answers there .*start it"):
        open_quickly(base_urls=[address], model="any", api_key=KEY, stop_ids=())


def test_a_server_of_another_kind_is_refused_and_its_echo_of_the_key_removed() -> None:
    with _echoing_server() as address, pytest.raises(ConfigError, match="no list of models at /models") as caught:
        open_quickly(base_urls=[address], model="any", api_key=KEY, stop_ids=())
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("base_url", "found"),
    [
        ("localhost:8000/v1", "not an address"),
        ("http://localhost:port/v1", "not an address"),
        ("http://", "not an address"),
        ("http://me:secret@localhost:8000/v1", "user name or password"),
    ],
)
def test_an_unusable_address_is_refused_before_anything_is_asked(base_url: str, found: str) -> None:
    with pytest.raises(ConfigError, match=found) as caught:
        open_quickly(base_urls=[base_url], model="any", api_key=None, stop_ids=())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", [f"{KEY}\n", f" {KEY}", f"{KEY}é"])
def test_a_key_that_fits_no_header_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigError, match="white space or characters outside ASCII") as caught:
        open_quickly(base_urls=["http://localhost:8000/v1"], model="any", api_key=key, stop_ids=())
    assert KEY not in str(caught.value)


def _logprobs_behind(network: LlamaForCausalLM, prompt: tuple[int, ...], text: tuple[int, ...]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = network(input_ids=torch.tensor([[*prompt, *text]])).logits
    return logits[0, len(prompt) - 1 : -1].log_softmax(dim=1)


def _greedy_ids(network: LlamaForCausalLM, request: Request, stops: tuple[int, ...]) -> list[int]:
    ids: list[int] = []
    with torch.inference_mode():
        while len(ids) < request.max_new_tokens and not set(ids[-1:]) & set(stops):
            logits_TV = network(input_ids=torch.tensor([[*request.prompt_ids, *ids]])).logits[0]
            ids.append(int(logits_TV[-1].argmax()))
    return ids


@contextmanager
def _echoing_server() -> Iterator[str]:
    """A web server that knows no models and repeats the key it was given."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.send_error(404, f"nothing here for {self.headers['Authorization']}")

    with running_web_server(Handler) as address:
        yield f"{address}/v1"
