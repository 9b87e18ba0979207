"""`Bert.as_module()`: the book's functions behind an `nn.Module`: names, gradients, ONNX.

What torch.compile makes of it in C++ takes a minute: `python tests/compiled_module.py` tries it.
"""

import copy
import dataclasses
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from minibert.checkpoint import stored_tensors
from minibert.config import Pruned
from minibert.encoder import encode
from minibert.files import WEIGHTS_FILE
from minibert.heads import pooled, sequence_logits, token_logits
from minibert.model import Bert
from minibert.module import Pretraining, Spans, answer, export_onnx
from minibert.parameters import named_tensors, with_tensors
from minibert.pretrained import HEADS

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def bert_of(head: str, **changes: Any) -> Bert:
    """A random model; weights that are 0 or 1 when they are fresh are moved, so that all count."""
    config = tiny.config(**changes)
    if head == "regression":
        config = config.with_labels(("score",), "regression")
    bert = Bert.from_config(config, head, seed=len(head))
    generator = torch.Generator().manual_seed(3)
    for _, tensor in named_tensors(bert.weights):
        tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.2)
    return bert


def inputs_of(head: str, rows: int = 4, tokens: int = 7, choices: int = 2) -> dict[str, Tensor]:
    """Rows of unlike length; of multiple choice questions of so many."""
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(1, 31, (rows, tokens), generator=generator)
    mask = (torch.arange(tokens) < torch.arange(tokens, tokens - rows, -1)[:, None]).long()
    shape = (rows // choices, choices, tokens) if head == "multiple_choice" else (rows, tokens)
    return {name: x.view(shape) for name, x in zip(INPUTS, (ids, mask, ids % 2), strict=True)}


def tensors_of(said: Any) -> tuple[Tensor, ...]:
    return (said,) if isinstance(said, Tensor) else tuple(said)


@pytest.mark.parametrize("head", HEADS)
def test_its_keys_and_numbers_are_those_of_the_saved_file(head, tmp_path):
    bert = bert_of(head)
    bert.save_pretrained(tmp_path)
    stored = stored_tensors(tmp_path / WEIGHTS_FILE)
    state = bert.as_module().state_dict()
    assert state.keys() == stored.keys()
    assert all(torch.equal(state[key], stored[key].read()) for key in stored)


@pytest.mark.parametrize("head", HEADS)
def test_it_says_what_transformers_says_of_the_same_arguments(head, tmp_path):
    transformers = pytest.importorskip("transformers", reason="it is the reference of this test")
    bert = bert_of(head)
    bert.save_pretrained(tmp_path)
    model = getattr(transformers, HEADS[head].architecture).from_pretrained(tmp_path)
    model = model.double().eval()
    module, inputs = bert.as_module().double().eval(), inputs_of(head)
    for chosen in (inputs, {"input_ids": inputs["input_ids"]}):
        with torch.no_grad():
            expected = model(**chosen).to_tuple()[: 1 if head == "encoder" else None]
            found = tensors_of(module(**chosen))
        assert len(found) == len(expected)
        for mine, reference in zip(found, expected, strict=True):
            reference = reference[:, 0] if head == "regression" else reference
            torch.testing.assert_close(mine, reference, rtol=1e-12, atol=1e-12)


def test_what_the_heads_with_two_answers_return():
    assert isinstance(bert_of("pretraining").as_module()(**inputs_of("pretraining")), Pretraining)
    assert isinstance(bert_of("question_answering").as_module()(torch.ones(1, 3).long()), Spans)


def test_a_head_without_weights_is_refused():
    bert = bert_of("mlm")
    with pytest.raises(ValueError, match="no weights of the head 'nsp'"):
        answer(torch.zeros(1, 2, 12), bert.weights, bert.config, "nsp")


def test_its_parameters_are_those_of_the_model_and_not_copies():
    bert, fresh = bert_of("classification"), tiny.classifier(seed=9)
    module = bert.as_module()
    module.load_state_dict(fresh.as_module().state_dict())
    for path, tensor in named_tensors(bert.weights):
        assert torch.equal(tensor, dict(named_tensors(fresh.weights))[path]), path
    for path, tensor in named_tensors(module.weights()):
        assert tensor.data_ptr() == dict(named_tensors(bert.weights))[path].data_ptr(), path
        assert tensor.requires_grad
    assert not bert.weights.embeddings.word_VD.requires_grad


def test_a_state_dict_that_lacks_something_is_refused():
    state = tiny.classifier().as_module().state_dict()
    del state["bert.encoder.layer.1.output.LayerNorm.bias"]
    with pytest.raises(RuntimeError, match=r"layer\.1\.output\.LayerNorm\.bias"):
        tiny.classifier().as_module().load_state_dict(state)


def test_gradients_are_those_of_the_books_functions():
    bert, inputs = bert_of("classification"), inputs_of("classification")
    module = bert.as_module().eval()
    upstream = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    (module(**inputs) * upstream).sum().backward()
    leaves = {path: x.clone().requires_grad_() for path, x in named_tensors(bert.weights)}
    weights = with_tensors(bert.weights, leaves)
    ids, mask, types = inputs.values()
    hidden_BSD = encode(ids, mask > 0, types, weights, bert.config)
    logits = sequence_logits(pooled(hidden_BSD, weights.pooler), weights.classifier)
    (logits * upstream).sum().backward()
    found = dict(named_tensors(module.weights()))
    assert found.keys() == leaves.keys()
    for path, leaf in leaves.items():
        assert torch.equal(found[path].grad, leaf.grad), path
    assert len(list(module.parameters())) == len(leaves)


@pytest.mark.parametrize("head", ["classification", "token_classification"])
def test_training_draws_dropout_from_torchs_own_generator(head):
    bert, inputs = bert_of(head, classifier_dropout=0.4), inputs_of(head)
    module, generator = bert.as_module(), torch.Generator().manual_seed(5)
    assert module.training
    ids, mask, types = inputs.values()
    hidden_BSD = encode(ids, mask > 0, types, bert.weights, bert.config, generator)
    last, rate = bert.weights.classifier, 0.4
    if head == "classification":
        vector_BD = pooled(hidden_BSD, bert.weights.pooler)
        expected = sequence_logits(vector_BD, last, rate, generator)
    else:
        expected = token_logits(hidden_BSD, last, rate, generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        first, second = module(**inputs), module(**inputs)
    assert torch.equal(first, expected)
    assert not torch.equal(first, second)
    assert torch.equal(module.eval()(**inputs), module(**inputs))


def test_what_was_trained_comes_back_to_the_model():
    bert = tiny.classifier()
    before, module = bert.logits(["a good film"]), bert.as_module().eval()
    ids = torch.tensor([bert.tokenizer.encode(["a good film"])[0].ids])
    module(ids).sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.5).step()
    after = dataclasses.replace(bert, weights=module.weights()).logits(["a good film"])
    torch.testing.assert_close(after, module(ids).detach(), rtol=0, atol=1e-5)
    assert (after - before).abs().min() > 0.01


def test_graphs_of_torch_compile_compute_and_learn_the_same():
    """Forwards, with dropout, and backwards; without the compiler of C++."""
    inputs = inputs_of("classification")
    plain, twin = (bert_of("classification").as_module().train() for _ in range(2))
    torch.compiler.reset()
    said = []
    for module in (plain, torch.compile(twin, backend="aot_eager")):
        torch.manual_seed(1)
        logits_BC = module(**inputs)
        (logits_BC * torch.arange(8.0).view(4, 2)).sum().backward()
        said.append(logits_BC.detach())
    assert float((said[0] - said[1]).abs().max()) <= 1e-5
    one_P, other_P = (torch.cat([x.grad.ravel() for x in m.parameters()]) for m in (plain, twin))
    assert float((one_P - other_P).abs().max()) <= 1e-5 * float(one_P.abs().max())


def test_it_may_be_copied_cast_and_called_with_other_parameters():
    module, inputs = bert_of("classification").as_module().eval(), inputs_of("classification")
    assert torch.equal(copy.deepcopy(module)(**inputs), module(**inputs))
    assert copy.deepcopy(module).bfloat16()(**inputs).dtype == torch.bfloat16
    nothing = {key: torch.zeros_like(x) for key, x in module.named_parameters()}
    said = torch.func.functional_call(module, nothing, (inputs["input_ids"],))
    assert torch.equal(said, torch.zeros(4, 2))


def test_it_learns_under_data_parallel_training():
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        module = bert_of("classification").as_module().eval()
        parallel, inputs = torch.nn.parallel.DistributedDataParallel(module), inputs_of("mlm")
        for _ in range(2):  # the second call complains where a parameter had no gradient
            parallel(**inputs).square().sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())


@pytest.mark.parametrize("head", ["mlm", "classification", "question_answering", "multiple_choice"])
def test_an_exported_graph_computes_the_same_for_other_sizes(head, tmp_path):
    pytest.importorskip("onnx", reason="torch.onnx needs it; it is in the extra [bench]")
    runtime = pytest.importorskip("onnxruntime", reason="it runs the graph: the extra [bench]")
    module, path = bert_of(head).as_module(), tmp_path / "bert.onnx"
    path.write_text("what was there before")
    export_onnx(module, path)
    assert module.training, "as it was"
    assert [file.name for file in tmp_path.iterdir()] == ["bert.onnx"]
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == list(INPUTS)
    module.eval()
    for inputs in (inputs_of(head), inputs_of(head, rows=6, tokens=11, choices=3)):
        found = session.run(None, {name: x.numpy() for name, x in inputs.items()})
        for mine, theirs in zip(tensors_of(module(**inputs)), found, strict=True):
            torch.testing.assert_close(torch.tensor(theirs), mine.detach(), rtol=0, atol=1e-5)


def test_sizes_of_a_pruned_model_are_its_own():
    pruned = Pruned(((0, 2), (1,)), (5, 17))
    bert = bert_of("classification", pruned=pruned)
    module = bert.as_module().eval()
    assert module.state_dict()["bert.encoder.layer.1.attention.self.key.weight"].shape == (4, 12)
    assert module(**inputs_of("classification")).shape == (4, 2)
