"""Pictures of a model at work, drawn with matplotlib (`pip install 'minibert[plot]'`)."""

from pathlib import Path

from minibert.translator import Asked
from minibert.writing import whole_file


def draw_cross_attention(asked: Asked, path: Path) -> None:
    """A field for each layer: the mean over its heads; a row for each piece that was written.

    The ending of the path, .svg or .png, decides the format.

    Raises
        OSError  the file cannot be written; what was there is untouched.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shares_LTS = asked.shares_LNTS.mean(1)
    n_layers, n_written, n_read = shares_LTS.shape
    width, height = 0.28 * n_read + 0.3, 0.28 * n_written + 0.3
    figure = Figure(figsize=(n_layers * width + 1.5, height + 1.5), layout="constrained")
    FigureCanvasAgg(figure)
    fields = figure.subplots(1, n_layers, sharey=True, squeeze=False)[0]
    for layer, (axes, shares_TS) in enumerate(zip(fields, shares_LTS, strict=True), start=1):
        image = axes.imshow(shares_TS.numpy(), cmap="cividis", vmin=0, vmax=1, aspect="equal")
        axes.set_title(f"layer {layer}", fontsize=10)
        axes.set_xticks(range(n_read), asked.source, rotation=90, fontsize=8)
        axes.set_yticks(range(n_written), asked.target, fontsize=8)
    figure.colorbar(image, ax=fields, shrink=0.6, label="share, mean over the heads")
    with whole_file(path) as staged, rc_context({"svg.fonttype": "none"}):  # letters as text
        figure.savefig(staged, dpi=120, format=path.suffix[1:])
