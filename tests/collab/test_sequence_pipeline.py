"""Several processes give the logits of one, and when one of them dies the others do not stay behind."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from edgeinfer import models
from edgeinfer.collab.sequence_pipeline import SequencePipeline, StageError


@pytest.fixture(scope="module")
def pipeline():
    with SequencePipeline("target", stages=2) as running:
        yield running


@pytest.fixture(scope="module")
def model():
    return models.load("target")


@pytest.fixture(scope="module")
def text():
    return models.held_out_tokens()[:300]


@pytest.mark.parametrize(("length", "chunk"), [(1, 8), (64, 64), (97, 32), (200, 7)])
def test_logits_are_those_of_one_process(pipeline, model, text, length, chunk):
    found = pipeline.prefill(text[:length], chunk, every_token=True)
    torch.testing.assert_close(found, model.prefill(text[None, :length])[0][0], atol=2e-4, rtol=1e-4)
    last = pipeline.prefill(text[:length], chunk)
    torch.testing.assert_close(last, found[-1:], atol=1e-5, rtol=1e-5)


def test_chunks_without_earlier_keys_would_give_other_logits(model, text):
    # The trap: each chunk for itself. It is wrong from the second chunk on, so the equality above is a real test.
    alone = torch.cat([model.prefill(part[None])[0][0] for part in text[:128].split(64)])
    whole = model.prefill(text[None, :128])[0][0]
    assert (alone - whole)[:64].abs().max() < 1e-3 < 1 < (alone - whole)[64:].abs().max()


def test_independent_prompts_are_continued_as_one_by_one(pipeline, model, text):
    prompts = [text[:40], text[60:61], text[100:190]]
    alone = [models.generate(model, prompt, 6)[len(prompt) :].tolist() for prompt in prompts]
    assert pipeline.generate(prompts, 6, chunk=32) == alone


def test_a_wrong_prompt_gets_one_sentence_and_the_pipeline_goes_on(pipeline, text):
    with pytest.raises(ValueError, match=r"tokens must be one prompt \(tokens,\) int64; came \(2, 4\)"):
        pipeline.prefill(torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="chunk must be at least 1 token"):
        pipeline.prefill(text[:5], 0)
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got 0"):
        pipeline.generate([text[:5]], 0)
    assert pipeline.generate([], 3) == []
    assert pipeline.prefill(text[:5]).shape == (1, 1024)


def test_a_killed_stage_is_named_and_no_process_is_left(text):
    running = SequencePipeline("draft", stages=2)
    os.kill(running.processes[1].pid, signal.SIGKILL)
    with pytest.raises(StageError, match=r"stage 1 \(layers .* ended with exit code -9 .*start a new pipeline"):
        running.prefill(text)
    assert not any(process.poll() is None for process in running.processes)
    with pytest.raises(StageError, match="this pipeline is closed"):
        running.prefill(text)
    running.close()


def test_what_is_broken_off_in_the_middle_closes_the_pipeline(text, monkeypatch):
    # Else the answers that are still on their way would be taken for those of the next prompt.
    with SequencePipeline("draft", stages=1) as running:

        def interrupted(*kinds):
            raise KeyboardInterrupt

        monkeypatch.setattr(running, "_next", interrupted)
        with pytest.raises(KeyboardInterrupt):
            running.prefill(text[:20])
        with pytest.raises(StageError, match="this pipeline is closed"):
            running.prefill(text[:20])


def test_an_error_inside_a_stage_is_told_in_its_own_words(text):
    with SequencePipeline("draft", stages=2) as running:
        with pytest.raises(StageError, match=r"layers 0 to .*exceed max_position_embeddings"):
            running.prefill(text.repeat(8))
        assert not any(process.poll() is None for process in running.processes)


def test_stages_end_with_the_process_that_started_them():
    # The stages inherit its output: reading it to the end waits for the last of them. The script has no main guard.
    code = (
        "import os, signal\n"
        "from edgeinfer.collab.sequence_pipeline import SequencePipeline\n"
        "pipeline = SequencePipeline('draft', stages=2)\n"
        "print('started', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=90)
    assert done.stdout == "started\n" and done.returncode == -signal.SIGKILL


def test_more_stages_than_layers_are_refused_before_anything_starts():
    with pytest.raises(ValueError, match="8 layers cannot be dealt to 9 stages"):
        SequencePipeline("target", stages=9)
