"""Phrases that are said to a dictation: commands, sentences that only look like commands, everyday talk, spelling.

A small grammar: `{slot}` is replaced by one of SLOTS[language][slot], again and again. Everything is lower case and
without punctuation, as the model writes. What a command does is decided elsewhere; here it is only the sound that counts.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

_SLOT = re.compile(r"\{(\w+)\}")

EN_SLOTS: Mapping[str, tuple[str, ...]] = {
    "unit": ("word", "sentence", "paragraph", "line", "phrase", "heading", "page"),
    "units": ("words", "sentences", "paragraphs", "lines"),
    "the": ("the last", "the previous", "that", "this", "the next", "the first", "the"),
    "n": ("two", "three", "four", "five", "six", "seven", "ten"),
    "cut": ("delete", "remove", "erase", "delete", "cut"),
    "please": ("", "", "", "", "please ", "now "),
    "word": (
        "red", "blue", "green", "house", "garden", "meeting", "monday", "friday", "happy", "sad", "river", "city",
        "letter", "doctor", "teacher", "morning", "evening", "summer", "winter", "coffee", "tea", "bridge", "forest",
        "budget", "report", "train", "window", "mother", "brother", "captain", "silver", "yellow", "quickly", "slowly",
    ),
    "half": ("the first half", "the second half", "the last part", "the first sentence", "the beginning", "the first two sentences"),
    "who": (
        "he", "she", "my boss", "the teacher", "the editor", "my brother", "her mother", "the captain", "anna", "peter",
        "my friend", "the doctor", "our neighbour", "the old man",
    ),
    "said": ("told me to", "asked me to", "wanted to", "said we should", "decided to", "forgot to", "tried to", "had to", "would never"),
    "act": (
        "{cut} {the} {unit}", "replace {word} with {word}", "start a new paragraph", "scratch that name from the list",
        "undo that mistake", "stop listening to the radio", "transcribe the first half of the interview",
        "stop listening", "insert a new line", "undo the damage", "delete everything", "scratch that", "undo that",
    ),
    "tail": ("", "", " before lunch", " yesterday", " and go home", " because it was wrong", " but i did not", " in the morning"),
    "name": ("anna", "peter", "maria", "john", "sarah", "david", "helen", "paul", "kate", "robert", "emma", "george"),
    "place": ("the office", "the station", "the market", "the library", "school", "the hospital", "the beach", "town", "the kitchen", "the airport"),
    "when": ("today", "tomorrow", "yesterday", "on monday", "on friday", "next week", "in the morning", "after dinner", "at noon", "this evening", "last year"),
    "thing": (
        "a letter", "the report", "some bread", "a new phone", "the tickets", "a cup of coffee", "the keys", "an email", "the car",
        "a good book", "the computer", "the meeting", "the project", "a message", "our plan", "the budget",
    ),
    "verb": ("bought", "found", "lost", "forgot", "sent", "brought", "liked", "needed", "finished", "changed", "started", "wanted", "saw"),
    "adj": ("good", "bad", "late", "early", "difficult", "easy", "important", "expensive", "quiet", "ready", "tired", "strange"),
    "letter": tuple("abcdefghijklmnopqrstuvwxyz"),
    "digit": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "oh"),
    "teen": ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
    "ten": ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"),
    "num": ("{digit}", "{teen}", "{ten}", "{ten} {digit}", "{digit} hundred", "{ten} {digit}"),
    "month": ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"),
    "day": ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth", "thirteenth", "twentieth", "thirtieth", "twenty first", "twenty fifth"),
    "key": ("enter", "erase", "rubout", "repeat", "help", "start", "stop", "yes", "no", "go"),
}  # fmt: skip

RU_SLOTS: Mapping[str, tuple[str, ...]] = {
    "masc": ("абзац", "заголовок", "кусок", "текст"),
    "fem": ("строку", "фразу", "главу", "страницу"),
    "neut": ("слово", "предложение"),
    "obj": (
        "последний {masc}", "этот {masc}", "предыдущий {masc}", "первый {masc}", "последнюю {fem}", "эту {fem}", "предыдущую {fem}",
        "первую {fem}", "последнее {neut}", "это {neut}", "предыдущее {neut}", "первое {neut}",
    ),
    "n": ("два", "три", "четыре"),
    "cut": ("удали", "убери", "сотри", "удалить", "вычеркни"),
    "please": ("", "", "", "", "пожалуйста "),
    "word": (
        "красный", "синий", "зелёный", "дом", "сад", "встреча", "понедельник", "пятница", "река", "город", "письмо", "доктор", "учитель",
        "утро", "вечер", "лето", "зима", "кофе", "чай", "мост", "лес", "отчёт", "поезд", "окно", "мама", "брат", "капитан", "быстро", "медленно",
    ),
    "half": ("первую половину", "вторую половину", "последнюю часть", "первое предложение", "начало", "только конец"),
    "who": ("он", "она", "учитель", "редактор", "мой брат", "её мама", "капитан", "анна", "пётр", "мой друг", "доктор", "наш сосед", "старик"),
    "said": ("сказал мне", "попросил", "хотел", "решил", "забыл", "просил меня", "велел", "не захотел", "обещал"),
    "act": (
        "удалить {obj}", "заменить {word} на {word}", "начать с нового абзаца", "зачеркнуть это имя", "отменить это решение",
        "перестать слушать радио", "записать первую половину беседы", "перестать слушать", "вставить новую строку", "удалить всё", "отменить это",
    ),
    "tail": ("", "", " до обеда", " вчера", " и пойти домой", " потому что там ошибка", " но не стал", " утром"),
    "name": ("анна", "пётр", "мария", "иван", "ольга", "дмитрий", "елена", "павел", "катя", "сергей", "наташа", "андрей"),
    "place": ("на работу", "на вокзал", "на рынок", "в библиотеку", "в школу", "в больницу", "на море", "в город", "на кухню", "домой"),
    "when": ("сегодня", "завтра", "вчера", "в понедельник", "в пятницу", "на следующей неделе", "утром", "после обеда", "в полдень", "вечером"),
    "thing": (
        "письмо", "отчёт", "хлеб", "новый телефон", "билеты", "чашку кофе", "ключи", "сообщение", "машину", "хорошую книгу", "компьютер",
        "документы", "план", "подарок", "деньги", "список",
    ),
    "verb": ("купил", "нашёл", "потерял", "забыл", "отправил", "принёс", "закончил", "изменил", "начал", "хотел", "увидел", "проверил"),
    "adj": ("хорошо", "плохо", "поздно", "рано", "трудно", "легко", "важно", "дорого", "тихо", "странно", "интересно", "холодно"),
    "digit": ("ноль", "один", "два", "три", "четыре", "пять", "шесть", "семь", "восемь", "девять"),
    "teen": ("десять", "одиннадцать", "двенадцать", "тринадцать", "четырнадцать", "пятнадцать", "шестнадцать", "семнадцать", "восемнадцать", "девятнадцать"),
    "ten": ("двадцать", "тридцать", "сорок", "пятьдесят", "шестьдесят", "семьдесят", "восемьдесят", "девяносто"),
    "num": ("{digit}", "{teen}", "{ten}", "{ten} {digit}", "сто {digit}"),
}  # fmt: skip

SLOTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {"en": EN_SLOTS, "ru": RU_SLOTS}

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "en": (
        "{please}{cut} {the} {unit}", "{cut} {the} {unit}", "{cut} the last {n} {units}", "{cut} everything", "{cut} that",
        "{cut} the word {word}", "replace {word} with {word}", "change {word} to {word}", "replace the word {word} with {word}",
        "{please}new paragraph", "new paragraph", "start a new paragraph", "new line", "next line", "scratch that", "scratch that please",
        "undo that", "undo", "undo the last change", "redo", "stop listening", "stop listening now", "stop dictation", "stop dictating",
        "transcribe only {half}", "transcribe {half} and then stop listening", "write only {half}", "select {the} {unit}", "go to the end", "never mind",
    ),
    "ru": (
        "{please}{cut} {obj}", "{cut} {obj}", "{cut} последние {n} слова", "{cut} всё", "{cut} это", "{cut} слово {word}",
        "замени {word} на {word}", "измени {word} на {word}", "замени слово {word} на {word}", "{please}новый абзац", "новый абзац",
        "начни новый абзац", "новая строка", "с новой строки", "зачеркни это", "сотри это", "отмени это", "отмена", "отмени последнее изменение",
        "верни обратно", "перестань слушать", "хватит слушать", "закончи диктовку", "стоп диктовка", "запиши только {half}",
        "запиши {half} и перестань слушать", "выдели {obj}", "перейди в конец", "забудь",
    ),
}  # fmt: skip

NEAR_MISSES: Mapping[str, tuple[str, ...]] = {
    "en": (
        "{who} {said} {act}{tail}", "{who} {said} {act}", "scratch that itch", "a new paragraph in the history of {place}", "i cannot undo that",
        "please do not stop listening to {name}", "they {verb} the first half of {thing}", "{name} will delete that paragraph {when}",
        "we replaced {word} with {word} {when}", "you should never delete {the} {unit}", "the new line at {place} was {adj}",
        "stop listening to {name}", "in the next paragraph {name} explains {thing}", "i read {the} {unit} to {name}", "there is a new paragraph about {name}",
        "undo that button said {name}", "the word {word} means {word}", "nobody could undo that {when}", "i want to replace {thing} {when}",
    ),
    "ru": (
        "{who} {said} {act}{tail}", "{who} {said} {act}", "это новый абзац в истории", "я не могу отменить это", "пожалуйста не переставай слушать музыку",
        "мы записали первую половину", "{name} удалит последний абзац {when}", "мы заменили {word} на {word}", "никогда не удаляй чужой текст",
        "новая строка получилась {adj}", "в новом абзаце {name} пишет про {thing}", "я прочитал {obj}", "тут нужен новый абзац про {thing}",
        "слово {word} значит {word}", "никто не мог отменить это {when}", "хватит слушать {name} сказал {who}", "я хочу заменить {thing} {when}",
    ),
}  # fmt: skip

EVERYDAY: Mapping[str, tuple[str, ...]] = {
    "en": (
        "{name} {verb} {thing} {when}", "i {verb} {thing} {when}", "we are going to {place} {when}", "{when} it was very {adj}", "could you send me {thing} {when}",
        "{name} and {name} {verb} {thing}", "the {word} is {adj}", "i think {thing} is {adj}", "where did {name} put {thing}", "let us meet at {place} {when}",
        "my {word} is {word} and {adj}", "there are {num} people at {place}", "it costs {num} dollars", "{name} lives near {place}", "thank you for {thing}",
    ),
    "ru": (
        "{name} {verb} {thing} {when}", "я {verb} {thing} {when}", "мы едем {place} {when}", "{when} было очень {adj}", "отправь мне {thing} {when}",
        "{name} и {name} пойдут {place}", "мне кажется что это {adj}", "где лежит {word}", "давай поедем {place} {when}", "мой {word} и твой {word}",
        "там было {num} человек", "это стоит {num} рублей", "спасибо за {thing}", "{name} живёт далеко", "как {adj} что {name} {verb} {thing}",
    ),
}  # fmt: skip

SPELLED: Mapping[str, tuple[str, ...]] = {
    "en": (
        "{letter} {letter} {letter} {letter}", "{letter} {letter} {letter} {letter} {letter}", "{letter} {letter} {letter} {letter} {letter} {letter} {letter}",
        "{num} {num}", "{digit} {digit} {digit} {digit} {digit}", "{month} {day} nineteen {ten} {digit}", "{month} {day}", "{key}", "{num}", "{digit}",
        "{key} {num} {num}", "{key} {letter} {letter} {letter} {num}", "{digit} {digit} {digit} {digit} {digit} {digit} {digit}", "{num} {word} street", "{letter}",
        "{teen} {teen} {ten} {digit}", "nineteen {ten} {digit}", "{key} {digit} {ten} {digit}",
    ),
    "ru": ("{num}", "{digit} {digit} {digit}", "{num} {num}", "{digit} {digit} {digit} {digit} {digit}", "{ten} {digit}"),
}  # fmt: skip


def expand(pattern: str, language: str, rng: random.Random) -> str:
    """Return `pattern` with every slot filled, chosen by `rng`."""
    slots = SLOTS[language]
    while (match := _SLOT.search(pattern)) is not None:
        pattern = pattern[: match.start()] + rng.choice(slots[match[1]]) + pattern[match.end() :]
    return " ".join(pattern.split())
