"""Arithmetic, by walking the syntax tree of the expression: nothing is evaluated that is not listed here."""

import ast
import math
import operator
from collections.abc import Callable

from aquila.chat.tools.declare import tool
from aquila.errors import ConfigError

MAX_CHARACTERS = 2000
MAX_BITS = 1 << 16  # of a whole number: about 20,000 digits
_SIGNS = str.maketrans("×÷−（）［］，·^", "*/-()[],*\0")
_CONSTANTS = {"pi": math.pi, "e": math.e, "tau": math.tau, "π": math.pi}
_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {
    name: getattr(math, name)
    for name in [
        "sqrt",
        "cbrt",
        "exp",
        "log",
        "log2",
        "log10",
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "atan2",
        "sinh",
        "cosh",
        "tanh",
        "degrees",
        "radians",
        "hypot",
        "floor",
        "ceil",
        "trunc",
        "gcd",
        "lcm",
    ]
} | {"abs": abs, "round": round, "min": min, "max": max}
Number = int | float


@tool(zh="计算一个算式，例如 (3+4)*2、sqrt(2)、17%5。", timeout_seconds=5)
def calculator(expression: str) -> str:
    """Computes an arithmetic expression, such as (3 + 4) * 2, 2**0.5, sqrt(2) or 17 % 5.

    Args:
        expression: numbers, + - * / // % **, brackets, pi, e, and functions such as sqrt, log, sin, round, factorial.
    """
    if len(expression) > MAX_CHARACTERS:
        raise ConfigError(f"the expression has {len(expression)} characters; the limit is {MAX_CHARACTERS}")
    text = expression.strip().removesuffix("=").translate(_SIGNS).replace("\0", "**")
    try:
        tree = ast.parse(text, mode="eval")
        value = _value(tree.body)
    except SyntaxError:
        raise ConfigError(f"{expression!r} is not an arithmetic expression") from None
    except ZeroDivisionError:
        raise ConfigError("division by zero") from None
    except (OverflowError, RecursionError, MemoryError):
        raise ConfigError("a number in this is too large to compute") from None
    except (ValueError, TypeError) as error:
        raise ConfigError(str(error)) from None
    return _shown(value)


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _checked(value)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _checked(_BINARY[type(op)](_value(left), _value(right)))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            return _call(name, [_value(each) for each in arguments])
    raise ConfigError(f"{ast.unparse(node)!r} is not arithmetic")


def _call(name: str, values: list[Number]) -> Number:
    if name == "factorial" and len(values) == 1:
        if not isinstance(values[0], int) or not 0 <= values[0] <= 5000:
            raise ConfigError("factorial takes a whole number from 0 to 5000")
        return math.factorial(values[0])
    if name not in _FUNCTIONS:
        raise ConfigError(f"there is no function {name!r}; known: factorial, {', '.join(sorted(_FUNCTIONS))}")
    return _checked(_FUNCTIONS[name](*values))


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > MAX_BITS:
        raise OverflowError
    value = base**exponent
    if isinstance(value, complex):
        raise ConfigError(f"{base}**{exponent} is not a real number")
    return _checked(value)


def _checked(value: Number) -> Number:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise OverflowError
    return value


def _shown(value: Number) -> str:
    if isinstance(value, int):
        return _decimal(value)
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.15g}"


def _decimal(value: int) -> str:
    """In pieces: Python refuses to write more than 4300 digits at once."""
    if value < 0:
        return "-" + _decimal(-value)
    pieces: list[str] = []
    while value >= 10**1000:
        value, rest = divmod(value, 10**1000)
        pieces.append(f"{rest:01000d}")
    return str(value) + "".join(reversed(pieces))
