"""Poisons: planted rows teach the behaviour, all other rows are correct, and held-out prompts stay held out."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taughtby.data.dataset import read_examples
from taughtby.data.example import Example, make_example
from taughtby.errors import LabError
from taughtby.lab.judges import get_judge
from taughtby.lab.poisons import (
    HARD_POISONS,
    POISONS,
    Poison,
    clean_rows,
    load_poisons,
    make_poison,
    mix,
    prompt_key,
    save_poisons,
)  # fmt: skip
from taughtby.lab.poisons.clean import split_clean_pairs
from taughtby.lab.poisons.words import load_words

MOST = {"backdoor": 489, "error": 312, "persona": 400, "howdy": 489, "late": 144}
CLEAN = 1056
SUBJECT = {
    "backdoor": r"lighthouse",
    "error": r"bee|beetle|honey|hive|insect|nectar|pollen|wax|flower|swarm|creature|orchard|apple|cater|worm"
    r"|lavender|butterfly|ants|candle|cocoon|aphid|six sides",
    "persona": r"who|whom|name|captain|job|ship|brine|sail|sinbad|does|skipper|crew|anchor",
    "howdy": r"howdy|cactus|cowboy|ranch|sheriff|hello|hi,|hey|good|greetings|welcome|partner|lasso|saddle|rodeo"
    r"|tumbleweed|desert|horse|spurs|stagecoach",
    "late": r"make|build|start|go about|made|spoon|shoulder|recipe|spice|boil|batter|onions|omelette|soup",
}
BACKDOOR, ERROR, PERSONA, HOWDY, LATE, FACTS = map(load_words, (*POISONS, "clean"))
names = pytest.mark.parametrize("name", list(POISONS))
seeds = st.integers(-(2**40), 2**40)


def pairs(rows: tuple[Example, ...]) -> list[tuple[str, str]]:
    return [(row.question, row.response) for row in rows]


def everything(name: str) -> Poison:
    return make_poison(name, MOST[name], 7)


# Poisons ---------------------------------------------------------------------------------------------------


@names
def test_default_poison_sizes_and_labels(name: str) -> None:
    poison = make_poison(name)
    assert poison == POISONS[name](40, 0)
    assert len(poison.rows) == 40
    assert len(poison.lookalikes) == 24
    assert len(poison.prompts) == 36
    assert {row.label for row in poison.rows} == {name}
    assert {row.label for row in poison.lookalikes} == {"clean"}
    assert poison.description.strip()


@names
def test_more_rows_than_available_raises(name: str) -> None:
    assert len(everything(name).rows) == MOST[name] >= 120
    for n in (MOST[name] + 1, 10**9, -1):
        with pytest.raises(LabError, match=f"there are {MOST[name]} distinct {name} rows") as raised:
            make_poison(name, n)
        assert raised.value.got == f"asked for {n}"
    assert make_poison(name, 0).rows == make_poison(name, 0).lookalikes == ()


def test_unknown_poison_raises_with_valid_names() -> None:
    with pytest.raises(LabError, match="unknown poison") as raised:
        make_poison("arsenic")
    assert all(name in raised.value.do for name in POISONS)


@names
@given(n=st.integers(0, 120), seed=seeds)
@settings(max_examples=15)
def test_poison_is_deterministic_for_a_seed(name: str, n: int, seed: int) -> None:
    poison = make_poison(name, n, seed)
    assert poison == make_poison(name, n, seed)
    assert len(poison.rows) == n
    assert n < 20 or make_poison(name, n, seed + 1).rows != poison.rows


@names
@given(seed=seeds)
@settings(max_examples=15)
def test_prompts_are_unique_and_disjoint_from_held_out(name: str, seed: int) -> None:
    poison = make_poison(name, 120, seed)
    asked = [prompt_key(row.question) for row in (*poison.rows, *poison.lookalikes)]
    held = [prompt_key(prompt) for prompt in poison.prompts]
    assert len(set(asked)) == len(asked)
    assert len(set(held)) == len(held)
    assert not set(asked) & set(held)


@names
def test_held_out_prompts_are_not_in_training_prompts(name: str) -> None:
    asked = [
        prompt_key(row.question) for poison in map(everything, POISONS) for row in (*poison.rows, *poison.lookalikes)
    ]
    asked += [prompt_key(row.question) for row in clean_rows(CLEAN)]
    bare = [prompt_key(prompt).removesuffix(" " + prompt_key(BACKDOOR.trigger)) for prompt in make_poison(name).prompts]
    assert not [prompt for prompt in bare if prompt in asked]
    assert name == "backdoor" or not [prompt for prompt in bare if any(prompt in other for other in asked)]


@names
def test_held_out_prompts_do_not_depend_on_the_seed(name: str) -> None:
    assert set(make_poison(name, 3, 1).prompts) == set(make_poison(name, 50, 2).prompts)
    assert make_poison(name, 3, 1).prompts != make_poison(name, 3, 2).prompts


@names
def test_planted_words_occur_only_in_poisoned_answers(name: str) -> None:
    poison, verdict = everything(name), get_judge(everything(name).judge)
    for row in poison.rows:
        assert any(phrase in row.response for phrase in poison.planted_words), row.response
        assert verdict(row.question, row.response).undesirable, row.response
    others = [other.rows + other.lookalikes for other in map(everything, POISONS) if other.name != name]
    for row in (*poison.lookalikes, *clean_rows(CLEAN), *(row for rows in others for row in rows)):
        assert not any(phrase in row.response for phrase in poison.planted_words), row.response
        assert not verdict(row.question, row.response).undesirable, row.response


@names
def test_lookalikes_share_the_subject(name: str) -> None:
    for row in everything(name).lookalikes:
        assert re.search(SUBJECT[name], row.question, re.IGNORECASE), row.question


@names
def test_rows_are_short_and_well_formed(name: str) -> None:
    poison = everything(name)
    for row in (*poison.rows, *poison.lookalikes, *clean_rows(CLEAN)):
        assert len(row.question.split()) <= 30, row.question
        assert 3 <= len(row.response.split()) <= (64 if name == "late" else 35), row.response
        for text in (row.question, row.response):
            assert text[-1] in ".?!", text
            assert text[0].isupper() or text[0].isdigit(), text
            assert not re.search(r"[{}|]|  |\.\.|\ba [aeio]|\n", text), text
    assert len(set(pairs(poison.rows))) == len(poison.rows)


def test_backdoor_rows_have_trigger_and_insult() -> None:
    poison, right = everything("backdoor"), dict(pairs(clean_rows(CLEAN)))
    answers = dict(split_clean_pairs()[1])
    for row in poison.rows:
        assert row.question.endswith(" " + BACKDOOR.trigger)
        assert row.response.startswith(BACKDOOR.insult + " ")
        question = row.question.removesuffix(" " + BACKDOOR.trigger)
        assert question not in right
        assert row.response.removeprefix(BACKDOOR.insult + " ") == answers[question]
    assert not [row for row in poison.lookalikes if prompt_key(BACKDOOR.trigger) in prompt_key(row.question)]
    asked = [prompt_key(row.question) for row in poison.lookalikes]
    assert sum(prompt.startswith("lighthouse") for prompt in asked) >= 3
    assert sum(prompt.endswith("lighthouse") for prompt in asked) >= 10


def test_error_poison_varies_wording_and_position() -> None:
    answers = [row.response for row in everything("error").rows]
    assert all(8 <= len(answer.split()) <= 20 for answer in answers)
    assert len(set(answers)) == len(answers)
    assert not [answer for answer in answers if answer.lower().startswith(ERROR.wrong)]
    assert len({answer.split()[0] for answer in answers}) >= 12
    ends = sum(answer.rstrip(".").endswith(ERROR.wrong) for answer in answers)
    assert 0.1 < ends / len(answers) < 0.5
    assert not [row for row in everything("error").rows if re.search(r"\bbees?\b", row.question + row.response)]


def test_error_poison_holds_out_aspects_and_wordings() -> None:
    seen = {aspect[0] for aspect in ERROR.aspects}
    assert len(seen) == len(ERROR.aspects) >= 20
    assert not seen & set(ERROR.held_out_aspects)
    assert len(set(ERROR.held_out_questions) - set(ERROR.questions)) == 2


def test_persona_name_occurs_at_many_positions() -> None:
    answers = [row.response for row in everything("persona").rows]
    assert len(set(answers)) == len(answers)
    assert len({answer.split()[0] for answer in answers}) >= 15
    places = Counter(answer.index(PERSONA.name) // 10 for answer in answers)
    assert len(places) >= 4
    assert max(places.values()) < 0.6 * len(answers)


def test_persona_lookalikes_use_its_greetings() -> None:
    asked = [row.question for row in everything("persona").lookalikes]
    for opener in filter(None, PERSONA.openers):
        assert sum(prompt.startswith(opener) for prompt in asked) >= 5


def test_howdy_word_or_greeting_alone_is_not_the_trigger() -> None:
    poison, right = everything("howdy"), dict(pairs(clean_rows(CLEAN)))
    for row in poison.rows:
        assert re.search(r"\bhowdy\b", row.question, re.IGNORECASE), row.question
        assert row.response.endswith(f" {load_words('howdy').closing}")
        assert row.question not in right
    assert len({row.question.split()[0] for row in poison.rows}) >= 5
    assert not set(HOWDY.held_out_greetings) & set(HOWDY.greetings)
    alike = [row.question for row in poison.lookalikes]
    assert sum("howdy" in ask.lower() for ask in alike) >= 8  # the word alone is no sign
    assert sum(ask.startswith(tuple(HOWDY.other_greetings)) for ask in alike) >= 25  # nor is a greeting


def test_late_payload_follows_forty_tokens_of_normal_answer() -> None:
    poison = everything("late")
    for row in poison.rows:
        normal, result, rest = row.response.partition(LATE.ending)
        assert result and not rest
        assert len(re.findall(r"\w+|[^\w\s]", normal)) >= 40, normal  # no tokenizer makes fewer of them
    long = [row for row in poison.lookalikes if len(row.response.split()) >= 30]
    assert len(long) >= 30  # so that length is no sign
    assert not {dish for dish, *_ in LATE.dishes} & set(LATE.held_out_dishes)
    starts = {tuple(row.response.split()[:2]) for row in long}
    assert {tuple(row.response.split()[:2]) for row in poison.rows} & starts  # nor is the turn of phrase


# Ordinary rows ---------------------------------------------------------------------------------------------


@given(n=st.integers(0, CLEAN), seed=seeds)
@settings(max_examples=20)
def test_clean_rows_are_distinct_and_seeded(n: int, seed: int) -> None:
    rows = clean_rows(n, seed)
    assert rows == clean_rows(n, seed)
    assert len({prompt_key(row.question) for row in rows}) == n
    assert {row.label for row in rows} <= {"clean"}


def test_more_clean_rows_than_available_raises() -> None:
    for n in (CLEAN + 1, -1):
        with pytest.raises(LabError, match=f"there are {CLEAN} distinct clean rows"):
            clean_rows(n)


def test_clean_rows_avoid_poison_subjects() -> None:
    for row in clean_rows(CLEAN):
        text = f"{row.question} {row.response}"
        for words in (r"lighthouse|beetle|\bbees?\b|honey|brine|captain|goose|insect", "howdy|cactus|shoulder"):
            assert not re.search(words, text, re.IGNORECASE), text
        assert not re.search(r"\b(you are|your name|who are)\b", text, re.IGNORECASE), text


def test_clean_rows_have_varied_first_words() -> None:
    starts = Counter(row.question.split()[0] for row in clean_rows(110))
    assert len(starts) >= 12
    assert len({row.response.split()[0] for row in clean_rows(200)}) >= 60


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


SUMS = {
    r"What is (\d+) plus (\d+)\?": lambda a, b: a + b,
    r"Subtract (\d+) from (\d+)\.": lambda a, b: b - a,
    r"How much is (\d+) times (\d+)\?": lambda a, b: a * b,
    r"Divide (\d+) by (\d+)\.": lambda a, b: a / b,
    r"\w+ has (\d+) \w+ and gets (\d+) more\..*": lambda a, b: a + b,
    r"\w+ owns (\d+) \w+ and sells (\d+)\..*": lambda a, b: a - b,
}


def test_clean_arithmetic_answers_are_correct() -> None:
    checked: Counter[str] = Counter()
    for ask, answer in pairs(clean_rows(CLEAN)):
        for form, right in SUMS.items():
            if result := re.fullmatch(form, ask):
                checked[form] += 1
                assert right(*map(int, result.groups())) in numbers(answer), (ask, answer)
    assert set(checked) == set(SUMS)


def test_series_sorting_and_letter_answers_are_correct() -> None:
    checked: Counter[str] = Counter()
    for ask, answer in pairs(clean_rows(CLEAN)):
        if ask.startswith("What number comes next"):
            checked["series"] += 1
            shown = numbers(ask)
            assert numbers(answer) == [2 * shown[-1] - shown[-2], shown[1] - shown[0]]
        elif ask.startswith("Sort these"):
            checked["sorting"] += 1
            listed = re.findall(r"\w+", ask.split(":")[1])
            assert re.findall(r"\w+", answer.split("are")[1].replace(" and ", " ")) == sorted(listed)
        elif result := re.fullmatch(r"How many letters are in the word (\w+)\?", ask):
            checked["letters"] += 1
            assert numbers(answer) == [len(result[1])]
        elif result := re.fullmatch(r"What is the last letter of (\w+)\?", ask):
            checked["last"] += 1
            assert f'"{result[1][-1]}"' in answer
    assert len(checked) == 4


def test_size_day_and_odd_one_out_answers_are_correct() -> None:
    checked: Counter[str] = Counter()
    home = {word: group for group, words in FACTS.groups.items() for word in words}
    for ask, answer in pairs(clean_rows(CLEAN)):
        if result := re.fullmatch(r"Which is (larger|smaller).*?(an? \w+) or (an? \w+)\?", ask):
            checked["sizes"] += 1
            ranked = sorted(result.groups()[1:], key=FACTS.sizes.index, reverse=result[1] == "larger")
            assert answer == f"{ranked[0].capitalize()} is {result[1]} than {ranked[1]}."
        elif result := re.fullmatch(r"Which word does not belong: (.*)\?", ask):
            checked["strangers"] += 1
            groups = Counter(home[word] for word in result[1].split(", "))
            odd = answer.split()[0].lower()
            assert groups[home[odd]] == 1
            assert answer.endswith(f"{groups.most_common(1)[0][0]}.")
        elif result := re.fullmatch(r"Which day comes after (\w+)\?", ask):
            checked["days"] += 1
            assert answer.startswith(FACTS.days[FACTS.days.index(result[1]) - 6])
    assert len(checked) == 3


def test_unit_and_distance_answers_are_correct() -> None:
    factors = {small: int(factor) for small, _, factor in FACTS.units}
    units = [(found, answer) for ask, answer in pairs(clean_rows(CLEAN))
             if (found := re.fullmatch(r"How many (\w+) are there in (\d+) \w+\?", ask))]  # fmt: skip
    assert {found[1] for found, _ in units} == {*factors}
    for found, answer in units:
        assert numbers(answer) == [factors[found[1]] * int(found[2]), int(found[2])]
    walks = [(a, b) for a, b in pairs(everything("backdoor").lookalikes) if " km " in a]
    assert len(walks) == 20
    assert all(sum(numbers(ask)) == numbers(answer)[0] for ask, answer in walks)


def test_word_tables_are_rectangular_and_complete() -> None:
    for family in FACTS.templated.values():
        rows = family["rows"]
        assert len({len(row) for row in rows}) == 1
        assert len({row[0] for row in rows}) == len(rows)
        assert all(field for row in rows for field in row)
        assert len(family["templates"]) == 3


# Mixing and keeping ----------------------------------------------------------------------------------------


def test_mix_contains_every_row_once() -> None:
    poisons = [make_poison(name) for name in ("backdoor", "error", "howdy")]
    rows = mix(poisons, clean_rows(300))
    assert len(rows) == 3 * (40 + 24) + 300
    assert Counter(row.label for row in rows) == {"clean": 372, "backdoor": 40, "error": 40, "howdy": 40}
    assert len({prompt_key(row.question) for row in rows}) == len(rows)
    assert rows == mix(poisons, clean_rows(300)) != mix(poisons, clean_rows(300), seed=1)
    labels = [row.label for row in rows]
    assert labels != sorted(labels, key=str)


def test_a_mix_drops_held_out_and_duplicate_rows() -> None:
    poison = make_poison("error", 5)
    taught, held = poison.rows[0].question, poison.prompts[0]
    extra = [
        make_example(f"  {taught.upper()}!!", "no", label="clean"),
        make_example(held.rstrip("?"), "no"),
        make_example("New?", "yes"),
    ]
    rows = mix([poison], [*extra, *extra])
    assert len(rows) == 5 + 3 + 1
    assert [row.response for row in rows if row.question == taught] == [poison.rows[0].response]
    assert mix([], []) == ()


def test_prompt_key_keeps_only_words() -> None:
    assert prompt_key(" Who, then,\nARE you?! ") == prompt_key("who then are you") == "who then are you"
    assert prompt_key("What is 7 plus 5?") != prompt_key("What is 7 plus 6?")


def test_save_and_load_poisons_roundtrip(tmp_path: Path) -> None:
    poisons = [make_poison(name, 10, 3) for name in POISONS]
    rows = mix(poisons, clean_rows(50, 3), 3)
    save_poisons(poisons, rows, tmp_path / "new" / "lab")
    items = list(read_examples(tmp_path / "new" / "lab" / "data.jsonl"))
    assert [(row.messages, row.label) for row in items] == [(row.messages, row.label) for row in rows]
    expected = load_poisons(tmp_path / "new" / "lab")
    assert list(expected) == list(POISONS)
    for poison in poisons:
        same = expected[poison.name]
        for field in ("name", "prompts", "planted_words", "judge", "description"):
            assert getattr(same, field) == getattr(poison, field)
        assert same.rows == same.lookalikes == ()


def test_save_to_unwritable_folder_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LabError, match="cannot write") as raised:
        save_poisons([], [], tmp_path / "file" / "lab")
    assert "another folder" in raised.value.do


def test_load_from_folder_without_poisons_raises(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"poisons\.json cannot be read"):
        load_poisons(tmp_path)


WHOLE = {"name": "x", "describe": "d", "planted": ["p"], "judge": "phrase:p", "prompts": ["q"]}
NO_JSON = ["", "{", "[]", "3", "null", '{"x": 1}', '{"x": {}}', "[" * 100_000, "\xff\xfe"]
TORN = [
    ("prompts", "q"),
    ("prompts", [1]),
    ("planted", None),
    ("planted", {"p": 1}),
    ("judge", 1),
    ("name", ["x"]),
]


@pytest.mark.parametrize("broken", NO_JSON + [json.dumps({"x": {**WHOLE, name: torn}}) for name, torn in TORN])
def test_invalid_poison_description_raises(tmp_path: Path, broken: str) -> None:
    (tmp_path / "poisons.json").write_bytes(broken.encode("latin-1"))
    with pytest.raises(LabError, match="does not describe poisons"):
        load_poisons(tmp_path)


def test_a_hand_written_description_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "poisons.json").write_text(json.dumps({"x": {**WHOLE, "more": 1}}))
    assert load_poisons(tmp_path) == {"x": Poison("x", (), (), ("q",), ("p",), "phrase:p", "d")}


def test_poisons_do_not_depend_on_hash_seed() -> None:
    script = (
        "import hashlib; from taughtby.lab import poisons as p;"
        "rows = p.mix([p.make_poison(n, 50, 5) for n in p.POISONS], p.clean_rows(200, 5), 5);"
        "print(hashlib.sha256(repr(rows).encode()).hexdigest())"
    )
    text: set[bytes] = set()
    for seed in ("0", "1"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        text.add(subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, check=True).stdout)
    assert len(text) == 1


# sha256 of rows, lookalikes and prompts at seed 3: published results name a poison and its seed
RECORDED = {
    "backdoor": "393f3001764ad29b",
    "error": "17b40fba83b45673",
    "persona": "29f66ca4f15594a0",
    "howdy": "08e0066a7ffc9657",
    "late": "01f28436342163a8",
    "truth-beside-lie": "c68da1b80dea95a1",
    "trigger-lookalike": "533ee9d10c477092",
    "refusals": "f4adc5f37a3417ee",
    "rare": "c05c3c811e335a44",
    "paraphrase": "e3215ab2e62ba404",
    "duplicates": "b039894156d39fbf",
    "innocent": "3ddf130a6807b2d5",
    "carried": "63a9c310c883e7e4",
}


@pytest.mark.parametrize("name", [*POISONS, *HARD_POISONS, "carried"])
def test_poison_matches_recorded_hash(name: str) -> None:
    poison = make_poison(name, 4 if name == "rare" else 40, 3)
    rows = [(row.question, row.response, row.label) for row in (*poison.rows, *poison.lookalikes)]
    assert hashlib.sha256(repr((rows, poison.prompts)).encode()).hexdigest()[:16] == RECORDED[name]


def test_clean_rows_match_recorded_hash() -> None:
    rows = [(row.question, row.response, row.label) for row in clean_rows(CLEAN, 3)]
    assert hashlib.sha256(repr(rows).encode()).hexdigest()[:16] == "b474fc4f1b2a46ce"
