"""Who may do what: the whole table of roles and rights, how often, and what of a principal is ever shown."""

import itertools

import pytest
from identity_provider import NOW, token, verifier

from fedbank.rates import Rate
from fedbank.serving.access.rights import (
    RIGHTS,
    ForbiddenError,
    Principal,
    Right,
    Role,
    UnauthorizedError,
    bearer_token,
)
from fedbank.serving.store.vault import RecordsKey

MAY = {
    (Role.CUSTOMER_CHANNEL, Right.ASK),
    (Role.CUSTOMER_CHANNEL, Right.GIVE_FEEDBACK),
    (Role.AGENT, Right.ASK_FOR_CUSTOMER),
    (Role.AGENT, Right.BATCH),
    (Role.AGENT, Right.REVIEW_FEEDBACK),
    (Role.OPERATOR, Right.WATCH),
    (Role.OPERATOR, Right.ROLL_OUT),
    (Role.OPERATOR, Right.ERASE),
    (Role.AUDITOR, Right.READ_AUDIT),
}


@pytest.mark.parametrize(("role", "right"), itertools.product(Role, Right))
def test_a_role_has_its_rights_and_no_other(role: Role, right: Right) -> None:
    principal = Principal(role, "issuer", 0.0, "subject")
    if (role, right) in MAY:
        principal.require(right)
    else:
        with pytest.raises(ForbiddenError, match="Expected a token that gives the right to"):
            principal.require(right)


def test_no_right_has_two_roles_and_none_is_without_one() -> None:
    given = [right for rights in RIGHTS.values() for right in rights]
    assert sorted(given) == sorted(Right)


def test_a_role_that_the_table_forgot_may_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(RIGHTS, Role.OPERATOR)
    for right in Right:
        with pytest.raises(ForbiddenError):
            Principal(Role.OPERATOR, "issuer", 0.0, "subject").require(right)


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic emhhbmc6d2Vp", "zhang", "Token abc", "abc.d.e"]
)
def test_no_bearer_token_is_no_access(header: str | None) -> None:
    with pytest.raises(UnauthorizedError) as refused:
        bearer_token(header)
    assert refused.value.reason == "missing" and "emhhbmc6d2Vp" not in str(refused.value)


def test_a_bearer_token_is_taken_from_its_header() -> None:
    assert bearer_token("Bearer abc") == bearer_token("bearer abc") == "abc"


def test_a_principal_shows_its_role_and_not_its_subject() -> None:
    principal = verifier().principal(token(), NOW)
    assert "zhang" not in repr(principal) and "zhang" not in f"{principal}" and "agent" in repr(principal)


def test_the_pseudonym_is_the_banks_own() -> None:
    key, other = RecordsKey.generate(), RecordsKey.generate()
    zhang, li = (Principal(Role.AGENT, "https://login", 0.0, name) for name in ("zhang", "li"))
    assert zhang.pseudonym(key) == Principal(Role.AUDITOR, "https://login", 9.0, "zhang").pseudonym(key)
    elsewhere = Principal(Role.AGENT, "https://other", 0.0, "zhang").pseudonym(key)
    shifted = Principal(Role.AGENT, "https://loginz", 0.0, "hang").pseudonym(key)
    assert len({zhang.pseudonym(key), li.pseudonym(key), zhang.pseudonym(other), elsewhere, shifted}) == 5
    assert zhang.pseudonym(key) != key.pseudonym("customer", "https://login", "zhang")


def test_each_principal_has_its_own_rate_and_hears_how_long_to_wait() -> None:
    now = [0.0]
    rate = Rate(2.0, 3, clock=lambda: now[0])
    assert [rate.allows("a") for _ in range(4)] == [True, True, True, False]
    assert rate.allows("b"), "another is not slowed down"
    assert rate.wait_s("a") == 0.5
    now[0] = 0.5
    assert rate.allows("a") and not rate.allows("a")
    now[0] = 0.0
    assert not rate.allows("a"), "a clock that goes back gives nothing"


def test_the_rates_of_many_principals_take_bounded_memory() -> None:
    rate = Rate(0.001, 1, clock=lambda: 0.0, max_keys=100)
    for number in range(10_000):
        assert rate.allows(str(number))
    assert len(rate._buckets) == 100
    assert not rate.allows("9999"), "those who were here last are still counted"
