"""Pictures of a market: what is drawn, without looking at pixels."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
import scipy.sparse

from catallax.market import Market
from catallax.market.figures import (
    BARS,
    COLUMNS,
    ROWS,
    allocation_map,
    dearest,
    draw_allocation,
    draw_convergence,
    draw_prices,
    draw_statics,
    draw_two_prices,
    short,
)
from catallax.market.groups import by_budget, by_main_good, main_goods
from catallax.runs.tables import svg_of

GOODS = [f"good {number}" for number in range(50)]


def words(figure) -> list[str]:
    """Return the words of a picture, which must be text and not outlines."""
    text = svg_of(figure)
    assert len(text) < 200_000
    root = ET.fromstring(text)
    return ["".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")]


def test_prices_are_those_of_the_dearest_goods():
    prices = np.random.default_rng(1).uniform(1, 9, 50)
    figure = draw_prices(GOODS, prices)
    axes = figure.axes[0]
    drawn = np.array([bar.get_width() for bar in axes.patches])
    assert np.array_equal(drawn, np.sort(prices)[::-1][:BARS])
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [GOODS[j] for j in np.argsort(-prices)[:BARS]]
    low, high = axes.get_ylim()
    assert low > high, "the dearest good stands on top"
    assert names[0] in words(figure)


def test_ties_keep_the_goods_order():
    assert dearest(np.array([1.0, 3.0, 1.0, 3.0]), 3).tolist() == [1, 3, 0]


def test_names_are_cut_and_never_read_as_formulas():
    assert short("x" * 40) == "x" * 23 + "…"
    figure = draw_prices(["$a_1$ and $b^2$", "under $5"], np.array([2.0, 1.0]))
    assert {"$a_1$ and $b^2$", "under $5"} <= set(words(figure))


def test_convergence_shows_every_round_and_the_tolerance():
    rounds, distances = np.arange(1, 6), np.array([1.0, 0.1, np.nan, 0.0, 1e-8])
    figure = draw_convergence(rounds, distances, 1e-6)
    axes = figure.axes[0]
    line, limit = axes.get_lines()
    assert np.array_equal(line.get_xdata(), [1, 2, 5]) and np.array_equal(line.get_ydata(), [1.0, 0.1, 1e-8])
    assert np.all(np.asarray(limit.get_ydata()) == 1e-6)
    assert axes.get_yscale() == "log"
    assert "tolerance 1e-06" in words(figure)


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array], ids=["dense", "sparse"])
def test_small_maps_show_every_buyer(form):
    shares = np.array([[0.0, 1.0, 0.0], [0.6, 0.4, 0.0], [0.0, 0.0, 1.0], [0.9, 0.1, 0.0]])
    prices = np.array([2.0, 5.0, 1.0])
    groups = {"late": np.array([0, 3]), "early": np.array([2])}
    picture, goods, ends = allocation_map(form(shares), main_goods(form(shares)), prices, groups)
    assert goods.tolist() == [1, 0, 2]
    assert ends == [("late", 2), ("early", 3), ("", 4)]
    assert np.allclose(picture, shares[[0, 3, 2, 1]][:, [1, 0, 2]])


def test_large_maps_keep_the_money():
    random = np.random.default_rng(2)
    shares = random.dirichlet(np.full(50, 0.05), 1000)
    prices = random.uniform(1, 2, 50)
    groups = {"few": np.arange(10), "many": np.arange(10, 1000)}
    picture, goods, ends = allocation_map(shares, shares.argmax(axis=1), prices, groups)
    assert picture.shape == (ROWS, COLUMNS + 1) and goods.size == COLUMNS
    assert ends == [("few", 2), ("many", ROWS)]
    assert np.allclose(picture.sum(axis=1), 1)
    assert np.allclose(picture[:2].mean(axis=0)[:COLUMNS], shares[:10][:, goods].mean(axis=0))
    figure = draw_allocation(picture, [GOODS[j] for j in goods] + ["others"], ends)
    assert {"few", "many", "others", GOODS[goods[0]]} <= set(words(figure))


def test_two_prices_stand_on_one_line():
    one, two = np.array([3.0, 1.0, 2.0]), np.array([2.5, 1.5, 2.0])
    figure = draw_two_prices(GOODS[:3], one, two)
    first, second = figure.axes[0].get_lines()
    assert np.array_equal(first.get_xdata(), [3, 2, 1]) and np.array_equal(second.get_xdata(), [2.5, 2, 1.5])
    assert {"price-taking", "strategic"} <= set(words(figure))


def test_statics_show_each_group():
    moves = {"poor": np.array([0.1, -0.3]), "rich": np.array([0.9, 1.3])}
    image = draw_statics(GOODS[:2], np.array([1.0, 2.0]), moves).axes[0].get_images()[0]
    assert np.array_equal(image.get_array(), [[-0.3, 1.3], [0.1, 0.9]])
    assert image.get_clim() == (-1.3, 1.3), "falls and rises are told apart by colour"
    rises = {"poor": np.array([0.1, 0.3])}
    image = draw_statics(GOODS[:2], np.array([1.0, 2.0]), rises).axes[0].get_images()[0]
    assert image.get_clim() == (0, 0.3)


def test_groups_by_budget_keep_equals_together():
    market = Market(np.ones((9, 2)), [0, 1, 1, 1, 1, 2, 3, 4, 5])
    groups = by_budget(market)
    assert sorted(np.concatenate(list(groups.values())).tolist()) == list(range(1, 9))
    for members in groups.values():
        outside = np.setdiff1d(np.arange(1, 9), members)
        assert not set(market.budgets[members]) & set(market.budgets[outside])
    assert next(iter(groups)) == "budget 1"
    assert len(by_budget(Market(np.ones((4, 1))))) == 1
    close = Market(np.ones((4, 1)), 1 + 1e-9 * np.arange(4))
    assert len(by_budget(close)) == 4


def test_groups_by_good_name_the_commonest():
    spending = 0.9 * np.eye(6)[[0, 0, 0, 1, 1, 2, 3, 4, 5, 0]] + 0.02
    market = Market(np.ones((10, 6)))
    groups = by_main_good(market, spending, most=2)
    assert {name: members.tolist() for name, members in groups.items()} == {
        "mostly good 1": [0, 1, 2, 9],
        "mostly good 2": [3, 4],
        "the others": [5, 6, 7, 8],
    }
    sparse = by_main_good(market, scipy.sparse.csr_array(spending), most=2)
    assert all(np.array_equal(sparse[name], groups[name]) for name in groups)
