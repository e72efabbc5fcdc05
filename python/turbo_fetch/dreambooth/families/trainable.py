"""What is trained: weights, matrices beside them, or the embedding of a new token; everything else is frozen."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftConfig
from torch import Tensor, nn
from torch.nn.functional import embedding

from turbo_fetch.dreambooth.families.block_swap import check_block_swap
from turbo_fetch.dreambooth.families.clip_vocabulary import add_words
from turbo_fetch.dreambooth.families.embeddings import with_numbers
from turbo_fetch.dreambooth.families.family import Family
from turbo_fetch.errors import SpecError
from turbo_fetch.spec.train import TrainSpec
from turbo_fetch.spec.train_tables import LoraSpec

_BLOCK: Final = re.compile(r"\w+(\.\d+)?")
"""The beginning of a module's name: `mid_block`, `up_blocks.1`."""


class TokenEmbedding(nn.Module):
    """An embedding table whose last rows are trained while the rest stays as it is."""

    def __init__(self, frozen: nn.Embedding, rows: Tensor) -> None:
        super().__init__()
        self.frozen = frozen
        self.rows = nn.Parameter(rows.float())

    @property
    def weight(self) -> Tensor:
        """The whole table, learned rows included."""
        return torch.cat([self.frozen.weight, self.rows.to(self.frozen.weight.dtype)])

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings [..., D] of ids."""
        known = self.frozen.num_embeddings
        values = self.frozen(ids.clamp(max=known - 1))
        learned = embedding((ids - known).clamp(min=0), self.rows).to(values.dtype)
        return torch.where((ids >= known)[..., None], learned, values)


@dataclass
class Trainable:
    """The parameters that are trained, in groups with a learning rate each, and the modules they are in."""

    groups: list[dict[str, Any]] = field(default_factory=list)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    """By component name."""
    embeddings: dict[str, TokenEmbedding] = field(default_factory=dict)
    """By name of the text encoder."""

    def named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield every parameter that is trained, always in the same order."""
        for name, module in self.modules.items():
            for inner, parameter in module.named_parameters():
                if parameter.requires_grad:
                    yield f"{name}.{inner}", parameter

    @property
    def has_text_encoder(self) -> bool:
        """Whether gradients go through a text encoder."""
        return any("text_encoder" in name for name in self.modules)


def configure_trainable(family: Family, train: TrainSpec) -> Trainable:
    """Freeze the model but for what `train.method` says. Raises SpecError if LoRA targets nothing."""
    settle(family, train)
    trainable = Trainable()
    if train.trains("token"):
        for name, encoder in family.text_encoders.items():
            trainable.embeddings[name] = _add_tokens(encoder, family.tokenizers[name], train)
            trainable.modules[name] = encoder
    parts: dict[str, tuple[nn.Module, str]] = {}
    if train.trains_denoiser:
        parts[family.denoiser_name] = (family.denoiser, "denoiser")
    if train.trains_text_encoder:
        parts |= {name: (encoder, "text_encoder") for name, encoder in family.text_encoders.items()}
    targets = _lora_targets(family, parts, train) if train.trains("lora") else {}
    for name, (module, _) in parts.items():
        _make_trainable(module, targets.get(name, []), train)
        trainable.modules[name] = module
    for learned in trainable.embeddings.values():
        # Whatever else of the encoder learns. With the table, the identifier's meaning could move beside the token.
        learned.frozen.requires_grad_(False)
        learned.rows.requires_grad_(True)
    _make_groups(trainable, parts, train)
    if train.gradient_checkpointing:
        _checkpoint_gradients(family, trainable)
    return trainable


def settle(family: Family, train: TrainSpec) -> None:
    """Freeze the whole model, as the spec says that it reads captions and predicts. Raises SpecError, ModelError."""
    family.check_options(train)
    family.settle_prediction(train.loss.kind)
    # What cannot be learned is refused before anything is encoded.
    family.process()
    family.tile_vae(train.vae_tiling, "train.vae_tiling")
    check_block_swap(family.denoiser, train.blocks_to_swap)
    if train.clip_skip:
        family.skip_layers(train.clip_skip)
    for _, module in family.modules():
        module.requires_grad_(False).eval()


def _lora_targets(
    family: Family, parts: dict[str, tuple[nn.Module, str]], train: TrainSpec
) -> dict[str, list[str]]:
    """Return the names of the modules that get LoRA, by component. Raises SpecError for one that is nowhere."""
    wanted, found = train.lora.targets, {}
    for name, (module, group) in parts.items():
        usual = family.lora_targets if group == "denoiser" else family.text_lora_targets
        there = [target for target in wanted if _has(module, target)]
        # Names that were given for the denoiser are none of a text encoder.
        found[name] = there or list(usual if group == "text_encoder" or not wanted else ())
    nowhere = [target for target in wanted if not any(target in names for names in found.values())]
    if nowhere or not found[family.denoiser_name]:
        raise SpecError(
            f"train.lora.targets = {list(wanted)}: the {family.denoiser_name} has no module {nowhere or list(wanted)}; "
            f"expected ends of names such as {', '.join(sorted(_ends(family.denoiser)))}"
        )
    if train.lora.blocks:
        found[family.denoiser_name] = _inside_blocks(family, found[family.denoiser_name], train.lora.blocks)
    return found


def _inside_blocks(family: Family, targets: Collection[str], blocks: Collection[str]) -> list[str]:
    """Return the whole names of the modules in blocks that get LoRA. Raises SpecError for a block without any."""
    names = [
        name
        for name, _ in family.denoiser.named_modules()
        if any(name == target or name.endswith(f".{target}") for target in targets)
    ]
    within = {name: block_of(name, blocks) for name in names}
    if unused := sorted(set(blocks) - set(within.values())):
        known = dict.fromkeys(match[0] for name in names if (match := _BLOCK.match(name)) is not None)
        raise SpecError(
            f"train.lora.blocks: nothing that gets LoRA in the {family.denoiser_name} begins with {unused}; expected "
            f"beginnings of names such as {', '.join(known)}"
        )
    return [name for name, block in within.items() if block is not None]


def block_of(name: str, blocks: Collection[str]) -> str | None:
    """Return the block that a module or parameter lies in by its name, the innermost of several; None for none."""
    around = [block for block in blocks if f"{name}.".startswith(f"{block}.")]
    return max(around, key=len, default=None)


def _ends(module: nn.Module) -> set[str]:
    """Return how names of modules with matrices end: `to_q`, `to_out.0`."""
    names = [name for name, inner in module.named_modules() if isinstance(inner, nn.Linear | nn.Conv2d)]
    parts = [name.split(".") for name in names]
    return {".".join(each[-2:] if each[-1].isdecimal() else each[-1:]) for each in parts}


def _has(module: nn.Module, target: str) -> bool:
    """Return whether a module has one of that name, or whose name ends so after a dot."""
    return any(name == target or name.endswith(f".{target}") for name, _ in module.named_modules())


def _make_trainable(module: Any, targets: list[str], train: TrainSpec) -> None:
    """Have a component trained: its own weights, or a LoRA beside them."""
    module.train()
    if train.trains("full"):
        module.requires_grad_(True)
        return
    try:
        module.add_adapter(_adapter_config(train.lora, targets))
    except ValueError as error:
        raise SpecError(
            f"train.lora.targets = {list(train.lora.targets)}: a module of such a name is none that has a matrix; "
            f"expected ends of names such as {', '.join(sorted(_ends(module)))}"
        ) from error
    for parameter in module.parameters():
        if parameter.requires_grad:
            # peft gives them the type of the weights beside them.
            parameter.data = parameter.data.float()


def _adapter_config(lora: LoraSpec, targets: list[str]) -> PeftConfig:
    """Return what is beside the weights of modules, in the words of peft."""
    alpha: Any = lora.alpha or lora.rank
    if lora.kind == "loha":
        return LoHaConfig(r=lora.rank, alpha=alpha, target_modules=targets)
    if lora.kind == "lokr":
        return LoKrConfig(
            r=lora.rank, alpha=alpha, target_modules=targets, decompose_factor=lora.factor or -1
        )
    return LoraConfig(
        r=lora.rank,
        lora_alpha=alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        use_dora=lora.dora,
        init_lora_weights="gaussian",
    )


def _add_tokens(encoder: Any, tokenizer: Any, train: TrainSpec) -> TokenEmbedding:
    """Teach tokenizer and encoder the identifier of each subject as new tokens that begin as a known word."""
    table: nn.Embedding = encoder.get_input_embeddings()
    starts: list[Tensor] = []
    for each in train.each_subject:
        numbers = tokenizer(train.token.initial or each.class_, add_special_tokens=False).input_ids
        start = table.weight.detach()[numbers].mean(0, keepdim=True).repeat(train.token.vectors, 1)
        names = token_names(each)
        wanted = table.num_embeddings + sum(map(len, starts))
        # A token of the model may have a mark of the end of a word in its vocabulary: `sks</w>`.
        is_known = len(tokenizer(each.identifier, add_special_tokens=False).input_ids) < 2
        if is_known or len(each.identifier.split()) != 1 or add_words(tokenizer, names) != len(names):
            raise SpecError(
                f"train.identifier = {each.identifier!r} is a token of the model already, or several words; "
                'expected a new word for method = "token", for instance "<sks>"'
            )
        assert tokenizer.convert_tokens_to_ids(names[0]) == wanted
        starts.append(start)
    learned = TokenEmbedding(table, torch.cat(starts).clone())
    encoder.set_input_embeddings(learned)
    return learned


def token_names(train: TrainSpec) -> list[str]:
    """Return the new tokens: the identifier, then the identifier with numbers as diffusers names them."""
    return with_numbers(train.identifier, train.token.vectors)


def with_all_tokens(train: TrainSpec, caption: str) -> str:
    """Return a caption with all tokens of the identifier in the place of the first."""
    if train.trains("token") and train.token.vectors > 1:
        word = rf"(?<!\w){re.escape(train.identifier)}(?!\w)"
        return re.sub(word, lambda _: " ".join(token_names(train)), caption)
    return caption


def _make_groups(trainable: Trainable, parts: dict[str, tuple[nn.Module, str]], train: TrainSpec) -> None:
    rows = {id(learned.rows) for learned in trainable.embeddings.values()}
    decay = train.optimiser.weight_decay
    for name, (module, group) in parts.items():
        own = {key: p for key, p in module.named_parameters() if p.requires_grad and id(p) not in rows}
        rate, factors = train.rates[group], train.lora.blocks if group == "denoiser" else {}
        for block in factors or (None,):
            held = [p for key, p in own.items() if block_of(key, factors) == block]
            trainable.groups.append(
                {
                    "params": held,
                    "lr": rate if block is None else rate * factors[block],
                    "weight_decay": decay,
                    "name": name if block is None else f"{name} {block}",
                }
            )
    if trainable.embeddings:
        tokens = [learned.rows for learned in trainable.embeddings.values()]
        trainable.groups.append(
            {"params": tokens, "lr": train.rates["token"], "weight_decay": 0.0, "name": "token"}
        )


def _checkpoint_gradients(family: Family, trainable: Trainable) -> None:
    denoiser: Any = family.denoiser
    denoiser.enable_gradient_checkpointing()
    # Diffusers recomputes only in training mode, which changes nothing else: these models have no dropout.
    denoiser.train()
    for name, encoder in family.text_encoders.items():
        if name in trainable.modules:
            # Its name since transformers 5.23, which warns of the one before.
            newer = getattr(encoder, "activation_checkpointing_enable", None)
            (newer or encoder.gradient_checkpointing_enable)()


def merge_tokens(family: Family, trainable: Trainable) -> dict[str, Tensor]:
    """Merge learned tokens into plain embedding tables, as other programs expect; returns them by encoder."""
    learned = {}
    for name, table in trainable.embeddings.items():
        encoder = family.text_encoders[name]
        whole = nn.Embedding(*table.weight.shape).requires_grad_(False)
        whole.weight.data = table.weight.detach().clone()
        encoder.set_input_embeddings(whole)
        encoder.config.vocab_size = whole.num_embeddings
        learned[name] = table.rows.detach().clone()
    return learned
