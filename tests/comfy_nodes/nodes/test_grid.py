import pytest
import torch


@pytest.fixture
def grid(comfy):
    """Returns a function from pictures and labels to the sheet, [height, width, 3]."""
    execute = comfy("nodes.grid").WaveFTGrid.execute

    def lay(images, labels=None, columns=0, title=""):
        (sheet,) = execute(images, [columns], [title], labels)
        assert sheet.shape[0] == 1 and sheet.dtype == torch.float32
        return sheet[0]

    return lay


def plain(value, height=100, width=100, batch=1):
    return torch.full((batch, height, width, 3), value)


def places(sheet, value):
    """Returns the rectangle (top, left, height, width) that a grey value fills."""
    found = ((sheet * 255).round() == round(value * 255)).all(-1)
    rows, columns = found.any(1).nonzero()[:, 0], found.any(0).nonzero()[:, 0]
    assert found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    return int(rows[0]), int(columns[0]), len(rows), len(columns)


VALUES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def test_up_to_five_stand_in_one_row_and_more_about_square(grid):
    one = grid([plain(value) for value in VALUES[:5]])
    found = [places(one, value) for value in VALUES[:5]]
    assert len({top for top, *_ in found}) == 1
    assert [left for _, left, *_ in found] == sorted(left for _, left, *_ in found)
    assert {size for *_, size in found} == {100}
    square = [places(grid([plain(value) for value in VALUES]), value) for value in VALUES]
    assert len({top for top, *_ in square}) == 2
    assert len({left for _, left, *_ in square}) == 3


def test_columns_are_as_asked_for(grid):
    found = [places(grid([plain(value) for value in VALUES], columns=2), value) for value in VALUES]
    assert len({top for top, *_ in found}) == 3
    assert grid([plain(0.2)], columns=7).shape[1] < 200, "no empty columns"


def test_pictures_keep_their_sizes_in_the_middle_of_their_cells(grid):
    sheet = grid([plain(0.2), plain(0.3, 50, 60)])
    top, left, height, width = places(sheet, 0.3)
    assert (height, width) == (50, 60)
    assert top == places(sheet, 0.2)[0] + 25
    assert left == places(sheet, 0.2)[1] + 100 + 8 + 20


def test_labels_stand_below_and_the_title_above(grid):
    plainly, labelled, titled = (
        grid([plain(0.2), plain(0.3)], **more)
        for more in ({}, {"labels": ["strength 0", "strength 1"]}, {"title": "dog.safetensors"})
    )
    assert labelled.shape[0] > plainly.shape[0] and labelled.shape[1] == plainly.shape[1]
    bottom = sum(places(labelled, 0.2)[::2])
    assert float(labelled[bottom:].min()) < 0.5, "something is written"
    assert places(titled, 0.2)[0] > places(plainly, 0.2)[0]
    longer = grid([plain(0.2), plain(0.3)], labels=["a label that takes more lines than one", "b"])
    assert longer.shape[0] > labelled.shape[0]


def test_a_label_for_each_batch_or_for_each_picture(grid, comfy):
    batches = [plain(0.2, batch=2), plain(0.3, batch=2)]
    for labels in (["a", "b"], ["a", "b", "c", "d"]):
        assert grid(batches, labels).shape[1] > 400
    for labels in (["a"], ["a", "b", "c"]):
        with pytest.raises(
            comfy("core").WaveFTError, match=f"each of 4 images, or one for each of 2 batches, got {len(labels)}"
        ):
            grid(batches, labels)
    with pytest.raises(comfy("core").WaveFTError, match="each of 2 images, got 3"):
        grid([plain(0.2), plain(0.3)], ["a", "b", "c"])


def test_no_pictures_are_refused(grid, comfy):
    with pytest.raises(comfy("core").WaveFTError, match="got none"):
        grid([])
