from types import SimpleNamespace

import pytest

LETTERS = {"latin.ttf": "abé?", "many.ttf": "abéЖ?", "cjk.ttf": "ab猫?"}


@pytest.fixture
def fonts(comfy):
    return comfy("drawing.fonts")


class Font:
    """A font that draws each of its letters in its own way, and one box for all others."""

    def __init__(self, name):
        self._letters = LETTERS[name]

    def getmask(self, letter):
        drawn = letter.encode() if letter in self._letters else b"box"
        return type("Mask", (bytes,), {"size": (len(drawn), 1)})(drawn)


@pytest.fixture
def system(fonts, monkeypatch):
    """Returns a function from the fonts that a system has to nothing; Pillow's own has a and b alone there."""

    def has(*names):
        def truetype(name, size):
            if name not in names:
                raise OSError("cannot open resource")
            return Font(name)

        LETTERS["own"] = "ab?"
        own = SimpleNamespace(load_default=lambda size: Font("own"), truetype=truetype)
        monkeypatch.setattr(fonts, "ImageFont", own)
        monkeypatch.setattr(fonts, "_SYSTEM", ("gone.ttf", *names))

    return has


def test_what_pillows_own_font_has_is_written_in_it(fonts):
    said = "db1, scaling 25   |   560 layers … (a+b) * 0.5_%"
    assert fonts.lettered(said) == (said, fonts.OWN)


def test_other_letters_take_the_first_font_of_the_system_that_has_them(fonts, system):
    system("latin.ttf", "many.ttf", "cjk.ttf")
    assert fonts.lettered("ab") == ("ab", fonts.OWN)
    assert fonts.lettered("a é") == ("a é", "latin.ttf")
    assert fonts.lettered("Жé") == ("Жé", "many.ttf")
    assert fonts.lettered("猫") == ("猫", "cjk.ttf")


def test_what_no_font_has_is_a_question_mark(fonts, system):
    system("many.ttf", "cjk.ttf")
    assert fonts.lettered("ab 犬") == ("ab ?", fonts.OWN)
    assert fonts.lettered("éЖ猫") == ("éЖ?", "many.ttf"), "the font that has the most"


def test_without_fonts_nothing_fails(fonts, system):
    system()
    assert fonts.lettered("a猫\tb\u0416") == ("a?\tb?", fonts.OWN)


def test_a_font_that_cannot_be_read_is_passed_over(fonts, monkeypatch, tmp_path):
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    monkeypatch.setattr(fonts, "_SYSTEM", (str(broken),))
    assert fonts.lettered("猫") == ("?", fonts.OWN)


def test_boxes_are_never_drawn(comfy, fonts):
    """In a picture, what is missing looks like a question mark."""
    drawing = comfy("drawing.drawing")
    pictures = []
    for text in ("a\U000f1234", "a?"):
        picture, pen = drawing.new((60, 30))
        drawing.write(pen, (4, 4), text, drawing.INK, 16)
        pictures.append(picture.tobytes())
        assert drawing.width(text, 16) == drawing.width("a?", 16)
    assert pictures[0] == pictures[1]


def test_fonts_that_are_there_are_found_by_their_files_names(fonts):
    try:
        fonts.named("DejaVuSans.ttf", 16)
    except OSError:
        pytest.skip("this system has no DejaVu")
    assert fonts.lettered("é ü ñ ß Ж") == ("é ü ñ ß Ж", "DejaVuSans.ttf")
