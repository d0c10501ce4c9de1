"""No statement is put together from texts: values are parameters, identifiers psycopg2's own.

The walk follows what is handed to a driver back to where it was written: a block of `sql/`, a
constant, or a composition of psycopg2.sql of those. A parameter of a function is followed to
everybody who calls it; one that is handed on without a call cannot be followed, and is refused.
"""

import ast
import inspect
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("raidhub_dagster", "streaming", "assets", "sensors")

# Methods and functions of the drivers -> which argument is the statement.
DRIVERS = {
    "execute": 0,
    "executemany": 0,
    "copy_expert": 0,
    "mogrify": 0,
    "callproc": 0,
    "copy_from": 1,
    "copy_to": 1,
    "execute_values": 1,
    "execute_batch": 1,
    "command": 0,
    "query": 0,
    "query_arrow": 0,
    "query_arrow_stream": 0,
    "query_column_block_stream": 0,
    "query_df": 0,
    "query_df_arrow": 0,
    "query_df_arrow_stream": 0,
    "query_df_stream": 0,
    "query_np": 0,
    "query_np_stream": 0,
    "query_row_block_stream": 0,
    "query_rows_stream": 0,
    "create_query_context": 0,
    "raw_query": 0,
    "raw_stream": 0,
    # Tables' names, put in as they are.
    "insert": 0,
    "insert_arrow": 0,
    "insert_df": 0,
    "insert_df_arrow": 0,
    "create_insert_context": 0,
    "raw_insert": 0,
    "read_sql": 0,
    "read_sql_query": 0,
    "SQL": 0,  # psycopg2.sql.SQL: a text that is not quoted
}
# What the drivers call that argument.
KEYWORDS = {"query", "sql", "cmd", "string", "table", "procname"}
# Of the same names, but nobody's methods.
FIELDS = {"parts.query", "request.query", "self.command"}
# Composables of psycopg2.sql that quote what they are given.
QUOTED = {"Identifier", "Literal", "Placeholder"}

# (file, function, source of the expression) -> why a text that is not followed is right there.
_FACADE = "raidhub_dagster/stack/clickhouse_server.py"
REASONS: Mapping[tuple[str, str, str], str] = {
    (_FACADE, "_run", "request.text"): "it is the server: a statement is what it is sent",
    (_FACADE, "_run", "f\"USE {_identifier(request.database or 'default')}\""): "quoted",
    (_FACADE, "_run", "'SET ' + ', '.join(values)"): "names and values are quoted",
    (_FACADE, "_reset", "f'SET {_identifier(name)} = DEFAULT'"): "quoted",
    ("raidhub_dagster/storage/clickhouse_lookups.py", "_refresh", "names['twin']"): "of LOOKUPS",
}

QUERIES = "raidhub_dagster.storage.queries"

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(eq=False)
class Module:
    file: str
    tree: ast.Module
    constants: dict[str, list[ast.expr]] = field(default_factory=lambda: defaultdict(list))
    calls: list[tuple[tuple["Function", ...], ast.Call]] = field(default_factory=list)
    uncalled: list[ast.Attribute | ast.Name] = field(default_factory=list)  # what else is read
    loaders: set[str | None] = field(default_factory=set)  # modules whose `load` is used here


@dataclass(frozen=True)
class Use:
    """A place that hands `statement` on as one."""

    module: Module
    within: tuple[Function, ...]  # innermost last
    statement: ast.expr

    @property
    def key(self) -> tuple[str, str, str]:
        names = [f.name for f in self.within if not isinstance(f, ast.Lambda)]
        return self.module.file, names[-1] if names else "", ast.unparse(self.statement)

    @property
    def where(self) -> str:
        return f"{self.module.file}:{self.statement.lineno}"


def module_of(text: str, file: str) -> Module:
    module = Module(file, ast.parse(text))
    outside = [s for s in module.tree.body if not isinstance(s, Function | ast.ClassDef)]
    for target, value in assignments(outside):
        module.constants[target].append(value)
    module.calls = list(calls(module.tree, ()))
    called = {id(call.func) for _, call in module.calls}
    for node in ast.walk(module.tree):
        match node:
            case ast.Assign(targets=[ast.Subscript(value=ast.Name(id=table))], value=value):
                # A table of statements may be changed from anywhere.
                module.constants[table].append(value)
            case ast.ImportFrom(names=names) if any(n.name == "load" for n in names):
                module.loaders.add(node.module)
            case ast.Attribute(ctx=ast.Load()) | ast.Name(ctx=ast.Load()):
                if id(node) not in called:
                    module.uncalled.append(node)
    return module


def assignments(body: list[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    """Name and value of each assignment below `body`; of a loop over a display each element."""
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Assign):
                pairs = [(target, node.value) for target in node.targets]
            elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and node.value:
                pairs = [(node.target, node.value)]
            elif isinstance(node, ast.For | ast.comprehension):
                shown = node.iter.elts if isinstance(node.iter, ast.Tuple | ast.List) else []
                pairs = [(node.target, value) for value in shown or [node.iter]]
            else:
                continue
            for target, value in pairs:
                yield from unpacked(target, value)


def unpacked(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple):
        values = value.elts if isinstance(value, ast.Tuple) else [value] * len(target.elts)
        for one, its in zip(target.elts, values, strict=True):
            yield from unpacked(one, its)


def calls(
    node: ast.AST, within: tuple[Function, ...]
) -> Iterator[tuple[tuple[Function, ...], ast.Call]]:
    if isinstance(node, ast.Call):
        yield within, node
    inside = (*within, node) if isinstance(node, Function) else within
    for child in ast.iter_child_nodes(node):
        yield from calls(child, inside)


def handed_to_driver(call: ast.Call) -> list[ast.expr]:
    """What a driver takes for a statement; nothing for other calls."""
    place = DRIVERS.get(name_of(call))
    if place is None:
        return []
    given = call.args[place : place + 1]
    given += [k.value for k in call.keywords if k.arg in KEYWORDS]
    return given or [k.value for k in call.keywords if k.arg is None]


def name_of(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def parameters(function: Function) -> list[str]:
    every = function.args
    return [a.arg for a in (*every.posonlyargs, *every.args, *every.kwonlyargs)]


@dataclass(frozen=True)
class Sink:
    """A parameter that goes on as a statement."""

    module: Module
    function: ast.FunctionDef | ast.AsyncFunctionDef
    parameter: str


class Walk:
    """Everything that reaches a driver in `modules`; `bad` are the places that do not hold."""

    def __init__(self, modules: list[Module]) -> None:
        self.modules = modules
        self.bad: list[Use] = []
        self.seen = 0
        self.excused: set[tuple[str, str, str]] = set()
        self._sinks: set[Sink] = set()
        self._new: list[Sink] = []
        for module in modules:
            for within, call in module.calls:
                for statement in handed_to_driver(call):
                    self._look(Use(module, within, statement))
            self._find_uncalled(module, {*DRIVERS})
        while self._new:
            self._follow(self._new.pop())
        for sink in self._sinks:
            for module in self._callers(sink):
                self._find_uncalled(module, {sink.function.name})

    def _look(self, use: Use) -> None:
        self.seen += 1
        if self._holds(use.statement, use, frozenset()):
            return
        if use.key in REASONS:
            self.excused.add(use.key)
        else:
            self.bad.append(use)

    def _follow(self, sink: Sink) -> None:
        """Every call of the function must hand over something that holds.

        Another one of the same name counts as well, unless the name begins with an underscore:
        that is called in its own module.
        """
        names = [name for name in parameters(sink.function) if name not in ("self", "cls")]
        place = names.index(sink.parameter)
        for module in self._callers(sink):
            for within, call in module.calls:
                if name_of(call) != sink.function.name:
                    continue
                given = [k.value for k in call.keywords if k.arg == sink.parameter]
                for statement in given or call.args[place : place + 1]:
                    self._look(Use(module, within, statement))

    def _callers(self, sink: Sink) -> list[Module]:
        return [sink.module] if sink.function.name.startswith("_") else self.modules

    def _find_uncalled(self, module: Module, names: set[str]) -> None:
        """Somebody else calls what is handed on, with statements that nobody sees here."""
        # A local variable may have the name of a method.
        bare = names - {*DRIVERS} | {"execute_values", "execute_batch", "SQL"}
        for node in module.uncalled:
            if isinstance(node, ast.Name):
                is_one = node.id in bare
            else:
                is_one = node.attr in names and ast.unparse(node) not in FIELDS
            if is_one:
                self.bad.append(Use(module, (), node))

    def _holds(self, node: ast.expr, use: Use, passed: frozenset[str]) -> bool:
        def holds(one: ast.expr) -> bool:
            return self._holds(one, use, passed)

        match node:
            case ast.Constant():
                return True
            case ast.Subscript(value=ast.Name(id=table)):
                return self._name_holds(table, use, passed)
            case ast.Subscript(value=value) | ast.DictComp(value=value):
                return holds(value)
            case ast.Dict(values=values) | ast.Tuple(elts=values):
                return all(map(holds, values))
            case ast.Call(func=ast.Name(id="load")):
                return use.module.loaders == {QUERIES}
            case ast.IfExp(body=one, orelse=other) | ast.BinOp(left=one, op=ast.Add(), right=other):
                return holds(one) and holds(other)
            case ast.Call(func=ast.Attribute(attr="format" | "join", value=value)):
                # psycopg2's own format and join refuse a bare text; str has the same names.
                return is_composed(value, use) and holds(value)
            case ast.Call(func=ast.Attribute(attr="SQL"), args=[text]):
                return holds(text)
            case ast.Call(func=ast.Attribute(attr=name)) if name in QUOTED:
                return True
            case ast.Name(id=name) if name in passed:
                return True
            case ast.Name(id=name):
                return self._name_holds(name, use, passed | {name})
        return False

    def _name_holds(self, name: str, use: Use, passed: frozenset[str]) -> bool:
        for function in reversed(use.within):
            body = function.body if isinstance(function.body, list) else []
            given = [value for target, value in assignments(body) if target == name]
            if given:
                return all(self._holds(value, use, passed) for value in given)
            if name in parameters(function) and not isinstance(function, ast.Lambda):
                sink = Sink(use.module, function, name)
                if sink not in self._sinks:
                    self._sinks.add(sink)
                    self._new.append(sink)
                return True
        given = use.module.constants[name]
        return bool(given) and all(self._holds(value, use, passed) for value in given)


def is_composed(value: ast.expr, use: Use) -> bool:
    """True for `sql.SQL(...)`, also by a name that it was given."""
    if isinstance(value, ast.Name):
        bodies = [f.body for f in use.within if isinstance(f.body, list)]
        found = [v for body in bodies for target, v in assignments(body) if target == value.id]
        found = found or use.module.constants[value.id]
        return bool(found) and all(is_composed(one, use) for one in found)
    return isinstance(value, ast.Call) and name_of(value) == "SQL"


WALK = Walk(
    [
        module_of(path.read_text("utf-8"), str(path.relative_to(ROOT)))
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
    ]
)


def test_the_walk_finds_the_statements_of_the_tree() -> None:
    """The test below would pass on a tree in which it found nothing."""
    assert WALK.seen > 400


def test_no_statement_is_put_together_from_texts() -> None:
    """A name with a quote in it, of a player or of a clan, would be run as a statement."""
    assert [f"{use.where}: {use.key[2]}" for use in WALK.bad] == []


def test_every_exception_is_still_one() -> None:
    """What is no longer there would excuse what comes in its place."""
    assert set(REASONS) == WALK.excused


def test_every_method_of_the_client_that_takes_a_statement_is_looked_at() -> None:
    """The next version of the driver has one more."""
    taking = {
        name
        for name, method in inspect.getmembers(Client, inspect.isfunction)
        if KEYWORDS & set(inspect.signature(method).parameters) and not name.startswith("_")
    }
    assert taking - set(DRIVERS) == set()
    assert "query" in taking


HEAD = f"from {QUERIES} import load\n_SQL = load('postgres', 'pgcr')\n"


@pytest.mark.parametrize(
    "text",
    [
        "cursor.execute(f'SELECT {name}')",
        "cursor.execute('SELECT ' + name)",
        "cursor.execute('SELECT %s' % name)",
        "cursor.execute('SELECT {}'.format(name))",
        "cursor.execute(' '.join(words))",
        "cursor.execute(_SQL['a'] + name)",
        "cursor.execute(_SQL['a'].format(name))",
        "cursor.execute(_SQL['a'].replace('x', name))",
        "cursor.execute(sql.SQL(name))",
        "cursor.execute(sql.SQL(f'{name}').format(a=sql.Identifier('a')))",
        "client.command(request.text)",
        "client.raw_insert(f'{database}.pgcr', columns, rows)",
        "execute_values(cursor, f'INSERT INTO {table} VALUES %s', rows)",
        "def f():\n    text = 'SELECT 1'\n    text = name + text\n    cursor.execute(text)",
        "def f():\n    text = 'SELECT 1'\n    text += name\n    cursor.execute(text)",
        "def f(text):\n    cursor.execute(text)\ndef g(name):\n    f(f'SELECT {name}')",
        "class A:\n    def f(self, text):\n        cursor.execute(text)\nA().f(text='a' + name)",
        "for text in (_SQL['a'], name):\n    cursor.execute(text)",
        "cursor.execute(query=f'SELECT {name}')",
        "cursor.execute(**{'query': name})",
        "client.command(cmd='DROP ' + name)",
        "client.raw_stream('SELECT %s' % name)",
        "client.insert(f'{database}.pgcr', rows)",
        "_SQL['a'] = f'SELECT {name}'\ncursor.execute(_SQL['a'])",
        "run = cursor.execute\nrun(name)",
        "partial(execute_values, cursor)(name, rows)",
        "def f(text):\n    cursor.execute(text)\npool.submit(f, name)",
        "from json import load\ncursor.execute(load(file))",
    ],
)
def test_the_walk_refuses(text: str) -> None:
    """Each is a way in which somebody in a hurry writes a statement."""
    assert Walk([module_of(HEAD + text, "f.py")]).bad != []


@pytest.mark.parametrize(
    "text",
    [
        "cursor.execute(_SQL['a'], {'name': name})",
        "cursor.execute(_SQL[f'top_{view}'])",
        "cursor.execute(load('postgres', 'pgcr')['a'])",
        "cursor.execute('SELECT 1')",
        "cursor.execute(sql.SQL(_SQL['a']).format(view=sql.Identifier(name)))",
        "text = sql.SQL(_SQL['a'])\ncursor.execute(text.format(view=sql.Literal(name)))",
        "client.query(_SQL['a'] if fresh else _SQL['b'])",
        "def f(text):\n    cursor.execute(text)\ndef g():\n    f(_SQL['a'])",
        "for text in (_SQL['a'], _SQL['b']):\n    cursor.execute(text)",
    ],
)
def test_the_walk_accepts(text: str) -> None:
    assert Walk([module_of(HEAD + text, "f.py")]).bad == []
