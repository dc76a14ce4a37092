"""What can be sent to Railway at all: a closed list of constant documents, and no other way."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from graphql import (
    FieldNode,
    OperationDefinitionNode,
    OperationType,
    build_schema,
    parse,
    print_ast,
    validate,
    visit,
)
from graphql import Visitor as AstVisitor

import mcp_ops.adapters.railway
from mcp_ops.adapters.railway.api import Api
from mcp_ops.adapters.railway.operations import Mutation, Query
from mcp_ops.errors import Internal

FOLDER = Path(mcp_ops.adapters.railway.__file__).parent
SCHEMA = FOLDER.parents[1] / "lab" / "railway" / "schema.graphql"
ALLOWED = {
    "deploymentRestart",
    "deploymentStop",
    "deploymentRollback",
    "deploymentRedeploy",
    "serviceInstanceUpdate",
    "serviceInstanceDeployV2",
    "variableUpsert",
}
# Parts of the names of what would lose something, or reach past the deployments of a service.
NEVER = (
    "delete",
    "remove",
    "volume",
    "patch",
    "token",
    "domain",
    "project",
    "environment",
    "plugin",
    "template",
    "member",
    "transfer",
    "collection",
    "backup",
    "bucket",
    "cancel",
)
EVERY = [*Query, *Mutation]


def definition(operation: Query | Mutation) -> OperationDefinitionNode:
    (found,) = parse(operation.value).definitions
    assert isinstance(found, OperationDefinitionNode)
    return found


def roots(operation: Query | Mutation) -> list[str]:
    return [
        each.name.value
        for each in definition(operation).selection_set.selections
        if isinstance(each, FieldNode)
    ]


@pytest.mark.parametrize("operation", EVERY, ids=lambda each: each.name)
def test_each_document_is_one_named_operation_of_its_kind(operation: Query | Mutation) -> None:
    found = definition(operation)
    wanted = OperationType.MUTATION if isinstance(operation, Mutation) else OperationType.QUERY
    assert found.operation is wanted
    assert found.name is not None
    assert "..." not in print_ast(found)


@pytest.mark.parametrize("operation", EVERY, ids=lambda each: each.name)
def test_each_document_fits_the_schema_and_uses_every_variable(
    operation: Query | Mutation,
) -> None:
    schema = build_schema(SCHEMA.read_text(encoding="utf-8"))
    assert validate(schema, parse(operation.value)) == []


def test_only_changes_of_deployments_can_be_sent() -> None:
    fields = [roots(each) for each in Mutation]
    assert all(len(each) == 1 for each in fields)
    assert {each[0] for each in fields} == ALLOWED
    for name in ALLOWED:
        assert not [part for part in NEVER if part in name.lower()], name


def test_nothing_of_a_caller_is_written_into_a_document() -> None:
    """All that varies are typed variables: no literal names an object or holds a value."""
    literals: list[str] = []

    class Literals(AstVisitor):
        def enter_string_value(self, node: Any, *_: Any) -> None:
            literals.append(node.value)

    for each in EVERY:
        visit(definition(each), Literals())
    assert literals == []


def test_a_variable_of_one_service_can_not_become_a_shared_one() -> None:
    """Without a service Railway would set it for all; the type of ours takes no null."""
    variables = definition(Mutation.SET_VARIABLE).variable_definitions or ()
    found = {each.variable.name.value: each for each in variables}
    assert print_ast(found["service"].type) == "String!"
    assert "skipDeploys: false" in Mutation.SET_VARIABLE.value


def test_the_documents_are_constants() -> None:
    tree = ast.parse((FOLDER / "operations.py").read_text(encoding="utf-8"))
    assigned = [
        node
        for cls in tree.body
        if isinstance(cls, ast.ClassDef)
        for node in cls.body
        if isinstance(node, ast.Assign)
    ]
    assert len(assigned) == len(EVERY)
    assert all(isinstance(node.value, ast.Constant) for node in assigned)


def test_one_place_sends_and_it_sends_the_value_of_a_member() -> None:
    """No other file of the adapter has a client's `send`, and none opens a client of its own but
    the adapter, which hands it on."""
    senders = []
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "send"
                and "http" in ast.unparse(node.func.value)
            ):
                senders.append(path.name)
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "query":
                        assert ast.unparse(value) == "operation.value", path.name
    assert senders == ["api.py"]


async def test_nothing_but_the_members_is_sent() -> None:
    class Nobody:
        """A client that must not be reached."""

    from pydantic import SecretStr

    api = Api(Nobody(), "https://railway.example", SecretStr("token"))  # type: ignore[arg-type]
    text: Any = "mutation { projectDelete(id: 1) }"
    for send in (api.ask, api.change):
        with pytest.raises(Internal):
            await send(text, {})
    with pytest.raises(Internal):
        await api.ask(Mutation.STOP, {})  # type: ignore[arg-type]
    with pytest.raises(Internal):
        await api.change(Query.ACCOUNT, {})  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Mutation["DELETE"] = text  # type: ignore[index]
