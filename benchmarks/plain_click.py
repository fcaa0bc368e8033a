"""An alternative to bai-emit: the same work, written in the usual way with click and json."""

import json

import click


@click.command()
@click.argument("words", nargs=-1, required=True)
def main(words):
    metrics = {}
    for word in words:
        name, _, value = word.rpartition("=")
        metrics[name] = float(value)
    click.echo(json.dumps(metrics))


if __name__ == "__main__":
    main()
