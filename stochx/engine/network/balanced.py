"""A network with balanced gradients: the same values, with a backward that leaves nothing of the logit out.

LibraGrad (Mehri et al., CVPR 2025): factors that depend on the image count as constants, so that every operation is
linear in what is left, and a product of two equal partners gives each half of the gradient. By Euler's theorem

    f(x) = <x, g> + sum_c <c, g_c>

with the balanced gradients g of the image and g_c of the constants that are added: biases, the offsets of norms, class
tokens and embeddings of positions. Constant are attention weights, the standard deviations of norms, denominators, the
gates of activations (their secant from zero), and the gates of squeeze-and-excitation. Networks of convolutions, batch
norms and ReLU keep their gradients. Balanced gradients are no gradient field: path integrals of them are not complete.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field

import torch
from torch import fx, nn

from stochx.engine.network.balanced_kinds import (
    CONSTANTS,
    FACTORS,
    NORMALISED,
    Kind,
    gate_of,
    kind_of,
    log_softmax_axis,
    passes_gates,
    slots,
)
from stochx.engine.network.inplace import out_of_place
from stochx.engine.network.linearised import FUNCTIONS, Norm, Secant, share
from stochx.errors import InputError


def balanced(graph: fx.GraphModule) -> fx.GraphModule:
    """Return the function of `graph` with balanced gradients, sharing its modules.

    Raises `InputError` for an operation without a rule between the image and the output.
    """
    source = out_of_place(graph)
    copies = dict[fx.Node, fx.Node]()
    whole = fx.Graph()
    for node in source.graph.nodes:
        copies[node] = whole.node_copy(node, copies.__getitem__)
    rewrite = _Rewrite(fx.GraphModule(source, whole))
    rewrite.detach_factors()
    rewrite.replace_operations()
    whole = rewrite.graph.graph
    whole.eliminate_dead_code()
    whole.lint()
    rewrite.graph.recompile()
    return rewrite.graph


@dataclass
class _Rewrite:
    """A graph while it is changed.

    `signals` are the nodes through which gradients flow, with the strength of the gate that their value is, 0 for none.
    """

    graph: fx.GraphModule
    signals: dict[fx.Node, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.modules = dict(self.graph.named_modules())
        self.kinds = {node: kind_of(node, self.modules) for node in self.graph.graph.nodes}

    def detach_factors(self) -> None:
        """Cut the factors that count as constants off from autograd."""
        for node in list(self.graph.graph.nodes):
            kind = self.kinds[node]
            active = [n for n in node.all_input_nodes if n in self.signals]
            if node.op == "placeholder":
                self.signals[node] = 0
            if not active or kind is Kind.FACT:
                continue
            if kind is Kind.INVERSE or (kind is Kind.SOFTMAX and self._weighs(node)):
                self._detach(node)
                continue
            self._cut_factors(node)
            kept = [n for n in node.all_input_nodes if n in self.signals]
            if kept:
                self.signals[node] = self._gate(node, kept)

    def replace_operations(self) -> None:
        """Replace the operations on the way from the image to the output by linear ones."""
        alive = self._alive()
        for node in list(self.graph.graph.nodes):
            kind = self.kinds.get(node)
            if node not in alive or kind is None:
                continue
            if kind is Kind.UNKNOWN:
                raise _refused(node, self.modules)
            if kind is Kind.NORM and node.op == "call_function":
                node.target = FUNCTIONS[node.target]
            elif kind is Kind.NORM:
                self._replace(node, Norm(self.modules[str(node.target)]))
            elif kind is Kind.SECANT:
                self._replace(node, Secant(self.modules[str(node.target)] if node.op == "call_module" else node.target))
            elif kind is Kind.PRODUCT:
                self._share(node)
            elif (axis := log_softmax_axis(node, self.modules)) is not None:
                self._shift(node, axis)

    def _cut_factors(self, node: fx.Node) -> None:
        """Cut the factors of `node` that count as constants off from autograd, here."""
        constant = [(slot, n) for slot, n in slots(node, CONSTANTS) if n in self.signals]
        factors = [(slot, n) for slot, n in slots(node, FACTORS) if n in self.signals]
        least = min((self.signals[n] for _, n in factors), default=0)  # the weakest gates are what the others act on
        for slot, factor in constant + [(slot, n) for slot, n in factors if self.signals[n] > least]:
            with self.graph.graph.inserting_before(node):
                constant_here = self.graph.graph.call_function(torch.detach, (factor,))
            self.kinds[constant_here] = Kind.FACT
            _put(node, slot, constant_here)

    def _gate(self, node: fx.Node, sources: list[fx.Node]) -> int:
        """Return how clearly the value of `node` is a gate of another one, 0 for not at all."""
        if own := gate_of(node, self.modules):
            return own
        if self.kinds[node] is Kind.RATIO and any(n.target is torch.detach for n in node.all_input_nodes):
            return NORMALISED
        return min(self.signals[n] for n in sources) if passes_gates(node, self.modules) else 0

    def _weighs(self, node: fx.Node) -> bool:
        """Return True if a softmax becomes a factor of another value, as attention weights do."""
        seen, waiting = {node}, [node]
        while waiting:
            for user in waiting.pop().users:
                if self.kinds[user] is Kind.PRODUCT:
                    return True
                if user not in seen:
                    seen.add(user)
                    waiting.append(user)
        return False

    def _detach(self, node: fx.Node) -> None:
        """Cut all readers of `node` off."""
        with self.graph.graph.inserting_after(node):
            constant = self.graph.graph.call_function(torch.detach, (node,))
        node.replace_all_uses_with(constant, delete_user_cb=lambda user: user is not constant)
        self.kinds[constant] = Kind.FACT

    def _share(self, node: fx.Node) -> None:
        """Give each signal among the factors of a product its part of the gradient."""
        active = [(slot, n) for slot, n in slots(node, FACTORS) if n in self.signals]
        for slot, factor in active if len(active) > 1 else []:
            with self.graph.graph.inserting_before(node):
                _put(node, slot, self.graph.graph.call_function(share, (factor, 1 / len(active))))

    def _shift(self, node: fx.Node, axis: int) -> None:
        """Make a difference of a log-softmax, whose normaliser counts as a constant."""
        call = self.graph.graph.call_function
        with self.graph.graph.inserting_before(node):
            normaliser = call(torch.logsumexp, (node.all_input_nodes[0], axis, True))
            node.replace_all_uses_with(call(operator.sub, (node.all_input_nodes[0], call(torch.detach, (normaliser,)))))

    def _alive(self) -> set[fx.Node]:
        """Return the signals that the output depends on."""
        (output,) = (node for node in self.graph.graph.nodes if node.op == "output")
        alive, waiting = set[fx.Node](), [output]
        while waiting:
            for source in waiting.pop().all_input_nodes:
                if source in self.signals and source not in alive:
                    alive.add(source)
                    waiting.append(source)
        return alive

    def _replace(self, node: fx.Node, module: nn.Module) -> None:
        """Let `node` call `module`, with the same arguments."""
        name = f"balanced_{node.name}"
        self.graph.add_submodule(name, module)
        node.op, node.target = "call_module", name


def _put(node: fx.Node, slot: int | str, argument: fx.Node) -> None:
    """Give `node` another argument, by place or name."""
    if isinstance(slot, int):
        node.update_arg(slot, argument)
    else:
        node.update_kwarg(slot, argument)


def _refused(node: fx.Node, modules: dict[str, nn.Module]) -> InputError:
    target = type(modules[str(node.target)]) if node.op == "call_module" else node.target
    name = getattr(target, "__name__", target)
    return InputError(f"no balanced gradient is known for `{name}`, at `{node.name}`", "use `backward=plain`")
