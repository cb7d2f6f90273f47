"""Build the tiny Qwen3 base model that ``fedbank simulate`` ships with, from nothing but our own text.

The text has the language of the synthetic inquiries with a freshly drawn tariff in every document, so the model
learns how questions and answers read and which values a tariff may hold, never what the consortium's tariff says.

    python -m simulations.pretrain_tiny --output runs/tiny_qwen3
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from fedbank.data.synthetic_language import (
    DRAWS_PER_QUESTION,
    LANGUAGES,
    answer,
    facts,
    question,
    random_tariff,
)

PAD, USER, ASSISTANT, END = SPECIAL_TOKENS = ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<|assistant|>' + message['content'] + '<|im_end|>' }}"
    "{% else %}{{ '<|user|>' + message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# Qwen's own split: contractions, words with one leading sign, single digits, punctuation, white space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
VOCABULARY = 2048
LONGEST_TOKEN_BYTES = 12  # four Chinese characters: whole clauses would otherwise become one token
TOKENIZER_DOCUMENTS = 20_000
EVALUATION_DOCUMENTS = 512


def documents(rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Endless question and answer pairs, each from a tariff of its own."""
    while True:
        tariff = random_tariff(rng)
        which = int(rng.integers(len(tariff)))
        language = LANGUAGES[int(rng.integers(len(LANGUAGES)))]
        fact = facts()[which]
        draws = rng.integers(2**31, size=DRAWS_PER_QUESTION).tolist()
        yield question(fact, language, draws), answer(fact, language, tariff[which])


def train_tokenizer(rng: np.random.Generator) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in the manner of Qwen: any text survives, digits stand alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=LONGEST_TOKEN_BYTES,
        show_progress=False,
    )
    stream = documents(rng)
    tokenizer.train_from_iterator(("\n".join(next(stream)) for _ in range(TOKENIZER_DOCUMENTS)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A randomly initialised Qwen3 of about one million parameters."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=416,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        max_window_layers=4,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return model


def batch(
    stream: Iterator[tuple[str, str]], size: int, tokenizer: PreTrainedTokenizerFast
) -> tuple[torch.Tensor, torch.Tensor]:
    """``size`` documents as padded token ids and the mask of the answers, both of shape (size, longest)."""
    pairs = [next(stream) for _ in range(size)]
    prompts = tokenizer([f"{USER}{asked}{ASSISTANT}" for asked, _ in pairs]).input_ids
    answers = tokenizer([f"{said}{END}" for _, said in pairs]).input_ids
    longest = max(len(prompt) + len(said) for prompt, said in zip(prompts, answers, strict=True))
    tokens = torch.full((size, longest), tokenizer.pad_token_id)
    is_answer = torch.zeros((size, longest), dtype=torch.bool)
    for row, (prompt, said) in enumerate(zip(prompts, answers, strict=True)):
        tokens[row, : len(prompt) + len(said)] = torch.tensor(prompt + said)
        is_answer[row, len(prompt) : len(prompt) + len(said)] = True
    return tokens, is_answer


def losses(
    model: Qwen3ForCausalLM, tokens: torch.Tensor, is_answer: torch.Tensor, pad: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy over all tokens and over the answers' tokens, in nats."""
    logits = model(input_ids=tokens[:, :-1]).logits
    targets = tokens[:, 1:]
    each = functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return each[targets != pad].mean(), each[is_answer[:, 1:]].mean()


def pretrain(
    steps: int, seed: int, console: Console
) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast, dict[str, float]]:
    """Train tokenizer and model; returns them with the held-out losses."""
    torch.manual_seed(seed)
    tokenizer_rng, training_rng, evaluation_rng = np.random.default_rng(seed).spawn(3)
    tokenizer = train_tokenizer(tokenizer_rng)
    model = new_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps, pct_start=0.1)
    stream = documents(training_rng)
    with Progress(console=console) as progress:
        task = progress.add_task("pre-training", total=steps)
        for _ in range(steps):
            tokens, is_answer = batch(stream, 64, tokenizer)
            loss, _ = losses(model, tokens, is_answer, tokenizer.pad_token_id)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            progress.update(task, advance=1, description=f"pre-training, loss {loss.item():.3f}")
    with torch.no_grad():
        tokens, is_answer = batch(documents(evaluation_rng), EVALUATION_DOCUMENTS, tokenizer)
        every, answers = losses(model, tokens, is_answer, tokenizer.pad_token_id)
    return model, tokenizer, {"loss_all_tokens": every.item(), "loss_answer_tokens": answers.item()}


def main() -> None:
    """Pre-train, print the held-out losses and save a Hugging Face folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    console = Console()
    model, tokenizer, measured = pretrain(options.steps, options.seed, console)
    model.to(torch.bfloat16).save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    console.print_json(json.dumps({"parameters": parameters, "vocabulary": len(tokenizer), **measured}))


if __name__ == "__main__":
    main()
