"""Several subjects in one run: whose batch comes when, with which words and class images, and what is made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from tiny_models import tiny_sd, tiny_sdxl
from training import (
    Listener,
    assert_equal_bits,
    fit,
    history,
    learned,
    stopped_after,
    training_spec,
    write_images,
)
from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.data.examples import Batches
from turbo_fetch.dreambooth.data.image_set import Turns
from turbo_fetch.dreambooth.data.training_data import make_concepts, read_training_data
from turbo_fetch.dreambooth.sampling import prior
from turbo_fetch.dreambooth.sampling.prompts import Words, read_prompts
from turbo_fetch.dreambooth.scoring import evaluate
from turbo_fetch.errors import Interrupted, OutputExists, SpecError
from turbo_fetch.spec import Spec
from turbo_fetch.spec.specfile import dump_spec, load_spec, load_text, parse_spec
from turbo_fetch.stop import StopRequest

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("base"))


def two_subjects(base: Path, folder: Path, **keys: Any) -> Spec:
    """Return a run on a dog with five images and a cat with two, which comes twice as often."""
    for number, (name, count) in enumerate({"rex": 5, "tom": 2, "class/dog": 3, "class/cat": 3}.items()):
        if not (folder / name).exists():
            write_images(folder / name, count, number)
    subjects = [
        {"images": str(folder / "rex"), "identifier": "sks", "class": "dog"},
        {
            "images": str(folder / "tom"),
            "identifier": "zwx",
            "class": "cat",
            "prompt": "{identifier} the {class}",
            "weight": 2,
        },
    ]
    return training_spec(base, folder, **{"subject": "", "class": "", "subjects": subjects, **keys})


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 3), st.integers(0, 9))
def test_each_round_has_the_turns_of_the_weights(weights: list[int], seed: int, number: int) -> None:
    turns = Turns(seed, tuple(weights))
    size = sum(weights)
    found = [turns.at(position) for position in range(number * size, (number + 1) * size)]
    assert Counter(chosen for chosen, _ in found) == Counter(dict(enumerate(weights)))
    for subject, weight in enumerate(weights):
        places = [place for chosen, place in found if chosen == subject]
        assert places == list(range(number * weight, (number + 1) * weight))


def test_a_batch_has_the_words_and_the_class_of_its_subject(base: Path, tmp_path: Path) -> None:
    spec = two_subjects(base, tmp_path, batch_size=2, cache=False)
    assert spec.train is not None
    data = read_training_data(spec, spec.train, lambda line: None)
    examples = make_concepts(spec.train, families.load(str(base)), data, lambda line: None)
    batches = Batches(examples, Turns(0, spec.train.weights))
    words = []
    for position in range(12):
        batch = batches[position]
        assert batch.prior is not None
        (own,), (of_class,) = set(batch.subject.captions), set(batch.prior.captions)
        words.append((own, of_class))
    assert Counter(words) == {
        ("a photo of sks dog", "a photo of a dog"): 4,
        ("zwx the cat", "a photo of a cat"): 8,
    }


def test_one_of_several_subjects_is_what_one_subject_is(base: Path, tmp_path: Path) -> None:
    single = training_spec(base, tmp_path, steps=3, output=str(tmp_path / "single"))
    one = {"images": str(tmp_path / "subject"), "identifier": "sks", "class": "dog"}
    subjects: dict[str, Any] = {"subject": "", "class": "", "subjects": [one]}
    several = training_spec(
        base,
        tmp_path,
        steps=3,
        output=str(tmp_path / "several"),
        **subjects,
    )
    fit(single)
    fit(several)
    assert history(tmp_path / "several") == history(tmp_path / "single")


def test_a_run_of_several_subjects_resumes_exactly_and_shows_each(base: Path, tmp_path: Path) -> None:
    spec = two_subjects(base, tmp_path)
    assert spec.train is not None
    held_out = [
        each.model_copy(
            update={"validation": str(write_images(tmp_path / each.identifier, 1, 9))}
        ).model_dump(by_alias=True)
        for each in spec.train.subjects
    ]
    keys = {
        "subjects": held_out,
        "validation": {"every": 3, "draws": 1},
        "sample_every": 6,
        "samples": {"images": 1, "steps": 1},
        "steps": 6,
    }
    told: dict[int, Mapping[str, float]] = {}

    class Losses(Listener):
        """Keeps the losses of validation."""

        def step(self, done: int, total: int, unit: str, values: Mapping[str, float]) -> None:
            if "validation_loss" in values:
                told[done] = values

    fit(two_subjects(base, tmp_path, output=str(tmp_path / "whole"), **keys), Losses())
    parts = two_subjects(base, tmp_path, output=str(tmp_path / "parts"), **keys)
    with pytest.raises(Interrupted):
        stopped_after(parts, 2)
    fit(parts)
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert_equal_bits(learned(tmp_path / "parts"), learned(tmp_path / "whole"))
    with Image.open(tmp_path / "whole" / "samples" / "step-000006.png") as sheet:
        assert sheet.size == (64, 2 * 64)
    assert told.keys() == {3, 6}
    of_each = [told[6][f"validation_loss_{word}"] for word in ("sks", "zwx")]
    # As often as each comes in training, however many images are held out.
    assert told[6]["validation_loss"] == pytest.approx((of_each[0] + 2 * of_each[1]) / 3)
    assert of_each[0] != pytest.approx(of_each[1])
    moved = two_subjects(base, tmp_path, output=str(tmp_path / "whole"), **{**keys, "steps": 7})
    (tmp_path / "tom" / "0.png").unlink()
    with pytest.raises(OutputExists, match="images of the zwx: were 2, are now 1"):
        fit(moved)


def test_each_subject_has_a_word_of_its_own(tmp_path: Path) -> None:
    base = tiny_sdxl(tmp_path / "base")
    spec = two_subjects(base, tmp_path, steps=2, method="token", token={"vectors": 2})
    assert spec.train is not None
    words = [
        each.model_copy(update={"identifier": word}).model_dump(by_alias=True)
        for each, word in zip(spec.train.subjects, ("<rex>", "<tom>"), strict=True)
    ]
    fit(two_subjects(base, tmp_path, steps=2, method="token", token={"vectors": 2}, subjects=words))
    family = families.load(str(tmp_path / "model"))
    table = family.text_encoders["text_encoder"].get_input_embeddings().weight
    tokenizer = family.tokenizers["text_encoder"]
    for word in ("rex", "tom"):
        stored = load_file(tmp_path / "model" / f"learned_embeds-{word}.safetensors")["clip_l"]
        numbers = tokenizer.convert_tokens_to_ids([f"<{word}>", f"<{word}>_1"])
        assert stored.equal(table[numbers])


def test_images_are_made_of_each_class(base: Path, tmp_path: Path) -> None:
    spec = two_subjects(base, tmp_path)
    tables = {**spec.model_dump(by_alias=True, exclude_none=True)}
    tables["prior"] = {"images": 2, "steps": 1, "width": 32, "height": 32, "output": str(tmp_path / "made")}
    report = prior.run(parse_spec(tables), Listener(), StopRequest())
    assert (report.images, report.made) == (4, 4)
    for class_ in ("cat", "dog"):
        with Image.open(tmp_path / "made" / class_ / "00001.png") as image:
            assert image.info["parameters"].startswith(f"a photo of a {class_}\n")
    assert prior.run(parse_spec(tables), Listener(), StopRequest()).made == 0


def test_prompts_that_name_the_subject_are_for_each(base: Path, tmp_path: Path) -> None:
    words = Words.of_each(two_subjects(base, tmp_path).train)
    given = ("{identifier} on the moon", "a tree", "a tree")
    assert read_prompts(given, words, "generate.prompts") == (
        "sks on the moon",
        "zwx on the moon",
        "a tree",
        "a tree",
    )


def test_one_of_the_subjects_is_scored(base: Path, tmp_path: Path) -> None:
    tables = two_subjects(base, tmp_path).model_dump(by_alias=True, exclude_none=True)
    quick = {"images": 2, "steps": 1, "width": 32, "height": 32, "prompts": ["{identifier} in snow"]}
    offline = {"metrics": ["dino"], "dino": "efficientnet-lite0", "models": [str(base)], "base": str(base)}
    tables["evaluate"] = {**quick, **offline, "output": str(tmp_path / "scores")}
    with pytest.raises(
        SpecError, match=r"evaluate\.identifier = None: \[train\] has several .* one of sks, zwx"
    ):
        evaluate.run(parse_spec(tables), Listener(), StopRequest())
    tables["evaluate"]["identifier"] = "zwx"
    spec = parse_spec(tables)
    assert spec.evaluate is not None
    subject = evaluate._subject(spec, spec.evaluate)
    assert subject is not None
    assert (subject.class_, subject.subject) == ("cat", str(tmp_path / "tom"))


def test_paths_of_subjects_begin_at_the_spec_and_survive_a_copy(base: Path, tmp_path: Path) -> None:
    spec = two_subjects(base, tmp_path)
    again = load_text(dump_spec(spec).encode(), "copy")
    assert again.train == spec.train
    relative = dump_spec(spec).replace(str(tmp_path), ".")
    path = tmp_path / "spec.toml"
    path.write_text(relative)
    assert load_spec(path).train == spec.train


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            {
                "method": "token",
                "subjects": [
                    {"images": "a", "identifier": word, "class": "dog"}
                    for word in ("<sks>", "[sks]", "<+>", "<b>")
                ],
            },
            r"the files of \['<sks>', '\[sks\]', '<\+>'\] would have the same name",
        ),
        ({"subject": "photos"}, r"subject is given beside \[\[train.subjects\]\]"),
        ({"class": "dog", "identifier": "abc"}, "class is given beside .*; identifier is given beside"),
        ({"subjects": []}, r"subject is missing; expected it, or \[\[train.subjects\]\]; class is missing"),
        ({"validation": {}}, r"\[train.validation\] has no images"),
        ({"validation": {"pictures": "x"}}, "validation.pictures is given, but each subject has its own"),
        (
            {"subjects": [{"images": "a", "identifier": "sks", "class": name} for name in ("dog", "a/b")]},
            r"same identifier \['sks'\].* classes \['a/b'\]",
        ),
        ({"subjects": [{"images": "a", "identifier": "sks"}]}, r"train\.subjects\.0\.class: missing"),
        (
            {"subjects": [{"images": "a", "identifier": "sks", "class": "dog", "validation": "b"}]},
            r"subjects \['sks'\] have validation, but no \[train.validation\]",
        ),
    ],
)
def test_subjects_that_are_not_told_apart_are_refused(
    base: Path, tmp_path: Path, keys: dict[str, Any], expected: str
) -> None:
    with pytest.raises(SpecError, match=expected):
        two_subjects(base, tmp_path, **keys)
