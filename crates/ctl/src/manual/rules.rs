//! The man page `uwsgi-tuntap-rules(5)`, made from the syntax, names and bounds that readers of rules files have.

use roff::{bold, roman};
use tuntap_api::control::Chain;
use tuntap_config::{
    FILTER_SYNTAX, MAX_NAME_LEN, MAX_RATE, MAX_SHAPES, OptionName, ROUTE_SYNTAX, SHAPE_SYNTAX, protocol_names,
};
use tuntap_live::limits::{MAX_GROUPS, MAX_LINE_LEN, MAX_MEMBERS, MAX_NAMED_COUNTERS, MAX_RULES, MAX_SETS};
use tuntap_live::{FILE_GROUP, GROUP_SYNTAX, INI_GROUP, LIVE_GROUP, SET_SYNTAX, chain_name};

use super::page::{Page, inlines};

const DESCRIPTION: [&str; 3] = [
    "A rules file has the rules of one router, in groups, and named sets of addresses. `tuntap-router-rules` names the file, \
     which is read when the instance starts and when it reloads. A file with an error stops the start, with the line's number.",
    "`uwsgi-tuntap rules check FILE` reads a file without using it, `uwsgi-tuntap rules diff FILE` says what it would change, \
     `uwsgi-tuntap rules replace FILE` uses it from now on, between two packets, and `uwsgi-tuntap save` writes the policy in \
     use into the file.",
    "A line has one statement or one rule. What stands behind a `#` at the beginning of a line, or behind white space, is a \
     comment. Empty lines count for nothing. Words are separated by white space, and there are no quotes.",
];

/// Words of a rule, each with what it means.
const WORDS: [(&str, &str); 10] = [
    ("allow", "Lets a packet pass."),
    ("deny", "Drops it in silence."),
    ("reject", "Drops it and tells its sender: with a reset for TCP, else with an ICMP error."),
    (
        "<addr[/len]>",
        "An address or a network of either family, which source or destination must be in. `any`, `0.0.0.0` and `::` without \
         a length are every address.",
    ),
    ("@<set>", "The addresses and networks of the set of this name, which the same file has."),
    (
        "<port[-port]>",
        "The destination port or ports, 1 to 65535, of protocols that have some. A protocol without ports stands for all of \
         them.",
    ),
    (
        "established",
        "Only packets of connections of which a packet in the opposite direction was let through, and errors about them.",
    ),
    ("new", "Only packets of all other connections."),
    ("log", "Writes a line for each connection that the rule decides about, within a budget."),
    (
        "counter [name]",
        "Counts in the counter of this name, too, which several rules may share and scripts can read. Each rule has counters of \
         its own anyway.",
    ),
];

/// A file that a router can use; the tests of the examples start one with it.
const EXAMPLE: &str = include_str!("../../../../examples/live/emperor0.rules");

/// The whole page.
pub fn render() -> String {
    let mut page = Page::new("uwsgi-tuntap-rules", "5", "rules files of uWSGI's plugin tuntap");
    page.section("Description");
    page.paragraphs(&DESCRIPTION);
    page.section("Statements");
    write_statements(&mut page);
    page.section("Rules");
    write_chains(&mut page);
    page.section("Words of a rule");
    write_words(&mut page);
    page.section("Order");
    page.text(inlines(&format!(
        "The rules of a chain are tried in this order: those of the group `{LIVE_GROUP}`, which has what is added by hand; those of \
         the other groups, in the order of the file; and those of the group `{INI_GROUP}`, which has the rules of the options and \
         can't stand in a file. The first rule that matches decides, and without a match a packet passes, except that a chain with rules \
         none of which could match an IPv6 packet denies IPv6. Of the limits in the chain `shape` that are for the same vassals, \
         the first one counts."
    )));
    page.section("Limits");
    write_limits(&mut page);
    page.section("Examples");
    page.text(inlines("examples/live/emperor0.rules:"));
    page.example(EXAMPLE);
    page.see_also(
        &[("uwsgi-tuntap", "1"), ("uwsgi-tuntap-options", "5")],
        "docs/OPERATIONS.md, docs/SCRIPTS.md and examples/",
    );
    page.render()
}

fn write_statements(page: &mut Page) {
    let chains = Chain::ALL.map(chain_name).join("|");
    page.term(
        [bold(format!("chain <{chains}>"))],
        inlines("The rules that follow are in this chain, up to the next statement `chain` or `group`."),
    );
    page.term(
        [bold(GROUP_SYNTAX)],
        inlines(&format!(
            "Begins a group of rules. Its owner may change its rules while the router runs, with the level `operate` of \
             `tuntap-router-control-access`; without an owner only admins may. Rules before the first group are in the group \
             `{FILE_GROUP}`."
        )),
    );
    let mut forms = SET_SYNTAX.split(" or ");
    if let (Some(members), Some(file)) = (forms.next(), forms.next()) {
        page.term(
            [bold(members)],
            inlines(
                "A set of addresses, networks and ranges (`192.0.2.10-192.0.2.20`), with white space or commas between them, over \
                 as many lines as it takes. Networks have no bits behind the length of their prefix.",
            ),
        );
        page.term(
            [bold(file)],
            inlines(
                "A set whose members are in another file, which is named by its absolute path. In there, comments begin with `#` or \
                 `;`, wherever they stand.",
            ),
        );
    }
}

fn write_chains(page: &mut Page) {
    page.term(
        [bold("chain in, chain out")],
        inlines("Packets towards the vassals, and packets from them. An action alone is for every packet."),
    );
    page.more([bold(FILTER_SYNTAX)]);
    page.term([bold("chain route")], inlines(OptionName::Route.spec().details));
    page.more([bold(ROUTE_SYNTAX)]);
    page.term([bold("chain shape")], inlines(OptionName::Shape.spec().details));
    page.more([bold(SHAPE_SYNTAX)]);
    page.more(inlines("Limits can't stand in a group with an owner other than root."));
}

fn write_words(page: &mut Page) {
    WORDS.iter().for_each(|(word, meaning)| page.term([bold(*word)], inlines(meaning)));
    page.term(
        [bold("rate <packets>/s")],
        inlines(&format!(
            "The rule matches so many packets of each source address in a second, 1 to {MAX_RATE}. What is beyond that goes on to \
             the next rules. With `new` it counts connections."
        )),
    );
    let names: Vec<String> = protocol_names().map(|name| format!("`{name}`")).collect();
    page.term(
        [bold("<protocol>")],
        inlines(&format!(
            "A number, or one of these names: {}. `icmp` is ICMP for IPv4 and ICMPv6 for IPv6. Numbers of IPv6's extension headers, \
             such as that of `ah`, take a source or destination of IPv4.",
            names.join(", ")
        )),
    );
}

fn write_limits(page: &mut Page) {
    let limits = [
        (MAX_RULES, "rules of all groups"),
        (MAX_SHAPES, "of them limits, in the chain shape"),
        (MAX_GROUPS, "groups"),
        (MAX_SETS, "sets"),
        (MAX_MEMBERS, "members of all sets together"),
        (MAX_NAMED_COUNTERS, "counters with names"),
        (
            MAX_NAME_LEN,
            "letters of a name; it begins with a letter, and has letters, digits, dots, hyphens and underscores",
        ),
        (MAX_LINE_LEN, "bytes of a line"),
    ];
    page.text([roman("A file has at most:")]);
    limits.iter().for_each(|(number, what)| page.term([bold(number.to_string())], [roman(*what)]));
}
