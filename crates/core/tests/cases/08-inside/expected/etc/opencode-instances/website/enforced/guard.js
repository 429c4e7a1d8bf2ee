// What opencode's own settings and variables cannot say. The supervisor has it read before the server's own
// program, and the enforced configuration names it as a plugin: a project that is not trusted has no
// configuration that the server could find, and no file lifts what is enforced once the configuration is
// merged. It prints a line as the one and as the other; the supervisor waits for both, and keeps the server down
// without them.
import { resolve as absolute } from "node:path";
import { fileURLToPath } from "node:url";

/** `{ hides: boolean, home: path, directory: path, first: text, line: text, enforced: settings }` */
const GIVEN = {"hides":true,"home":"/var/lib/opencode/instance-state/website","directory":"/srv/website","first":"opencode-instances: the guard is first","line":"opencode-instances: the guard is active","enforced":{"share":"disabled","permission":{"webfetch":"deny"}}};

// An import would fix what the server's own imports of it are given.
const fs = process.getBuiltinModule("node:fs");

/** The file that names this one. */
const MANAGED = "/etc/opencode/opencode.json";
/** What a project's configuration is called. */
const NAMES = [".opencode", "opencode.json", "opencode.jsonc"];

/** Whether the server read MANAGED through what is replaced below. */
let replaced = false;

/** Whether a path leads to a project's configuration, wherever that project is. */
function leadsToProject(given, trusted) {
  if (given instanceof Uint8Array) given = Buffer.from(given).toString();
  if (given instanceof URL) given = fileURLToPath(given);
  if (typeof given !== "string") return false;
  const path = absolute(given);
  replaced ||= path === MANAGED;
  if (trusted.some((one) => path === one || path.startsWith(`${one}/`))) return false;
  // The names of the places themselves say nothing.
  const place = [GIVEN.home, GIVEN.directory].find((one) => path === one || path.startsWith(`${one}/`));
  return path
    .slice(place?.length ?? 0)
    .split("/")
    .some((part) => NAMES.includes(part));
}

/** Every way to find or read a file that Node names, as if a project had no configuration. */
function hide() {
  const { HOME, OPENCODE_CONFIG, OPENCODE_CONFIG_DIR } = process.env;
  const config = `${HOME}/.config/opencode`;
  const trusted = [MANAGED, `${MANAGED}c`, `${config}/opencode.json`, `${config}/opencode.jsonc`, `${HOME}/.opencode`];
  trusted.push(...[OPENCODE_CONFIG, OPENCODE_CONFIG_DIR].filter(Boolean).map((path) => absolute(path)));

  const missing = (call, path) =>
    Object.assign(new Error(`ENOENT: no such file or directory, ${call} '${path}': trustProject is off`), {
      code: "ENOENT",
      errno: -2,
      syscall: call,
      path,
    });
  const wrap = (from, name, answer) => {
    const real = from[name];
    if (typeof real !== "function") return;
    const wrapped = (path, ...rest) =>
      leadsToProject(path, trusted) ? answer(missing(name, path), rest) : real.call(from, path, ...rest);
    from[name] = Object.assign(wrapped, real);
  };
  for (const name of ["access", "exists", "lstat", "open", "opendir", "readdir", "readFile", "realpath", "stat"]) {
    wrap(fs.promises, name, (error) => Promise.reject(error));
    wrap(fs, name, (error, rest) => {
      const done = rest.findLast((one) => typeof one === "function");
      process.nextTick(() => (name === "exists" ? done?.(false) : done?.(error)));
    });
    wrap(fs, `${name}Sync`, (error, [options]) => {
      if (name === "exists") return false;
      if (options?.throwIfNoEntry === false) return undefined;
      throw error;
    });
  }
}

// Before the server's own program has taken hold of any function.
const isFirst = process.env.BUN_INSPECT_PRELOAD === import.meta.path;
// What the agent starts does not read it.
delete process.env.BUN_INSPECT_PRELOAD;
if (isFirst && GIVEN.hides) hide();
// On the same way as the server's own word that it listens, and so in front of it.
if (isFirst) console.log(GIVEN.first);

const isTable = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** Puts the values of `from` into `into`, table by table. */
function merge(into, from) {
  for (const [key, value] of Object.entries(from)) {
    if (isTable(value) && isTable(into[key])) merge(into[key], value);
    else into[key] = structuredClone(value);
  }
}

/** Rules as a table; the last one that matches counts. */
const table = (rules) => (isTable(rules) ? rules : rules === undefined ? {} : { "*": rules });

/** `rules` with `last` behind all of them, and nothing of a lower level within those. */
function ending(rules, last) {
  const all = { ...table(rules) };
  for (const [key, value] of Object.entries(last)) {
    delete all[key];
    all[key] = value;
  }
  return all;
}

/** The rules that settings, or those of an agent, say; `tools` is their older form. */
function rulesOf({ permission, tools }) {
  const rules = {};
  for (const [tool, on] of Object.entries(tools ?? {})) {
    const edits = ["write", "edit", "patch", "multiedit"].includes(tool);
    rules[edits ? "edit" : tool] = on ? "allow" : "deny";
  }
  return ending(rules, table(permission));
}

/** A text with what opencode would have put into it. */
const resolved = (text) =>
  text
    .replace(/\{env:([^}]+)\}/g, (_, name) => process.env[name] ?? "")
    .replace(/\{file:([^}]+)\}/g, (_, path) => fs.readFileSync(path.trim(), "utf8").trim());

const resolve = (value) =>
  typeof value === "string"
    ? resolved(value)
    : Array.isArray(value)
      ? value.map(resolve)
      : isTable(value)
        ? Object.fromEntries(Object.entries(value).map(([key, one]) => [key, resolve(one)]))
        : value;

function impose(config, enforced) {
  // opencode adds lists of these up, so they cannot be lost.
  const { permission, tools, plugin, instructions, mode, agent, $schema, ...rest } = enforced;
  const rules = rulesOf({ permission, tools });
  if (Object.keys(rules).length > 0) {
    config.permission = ending(config.permission, rules);
    for (const one of Object.values(config.agent ?? {})) {
      one.permission = ending(one.permission, rules);
    }
  }
  // What is enforced of one agent comes behind what is enforced of all.
  for (const [name, given] of [mode, agent].flatMap((all) => Object.entries(all ?? {}))) {
    const one = ((config.agent ??= {})[name] ??= {});
    const { permission, tools, ...values } = given;
    merge(one, resolve(values));
    const own = rulesOf({ permission, tools });
    if (Object.keys(own).length > 0) one.permission = ending(one.permission, own);
  }
  merge(config, resolve(rest));
}

export const Guard = async () => {
  if (GIVEN.hides && !(isFirst && replaced)) return {};
  console.error(GIVEN.line);
  return {
    config: async (config) => {
      try {
        impose(config, GIVEN.enforced);
      } catch (error) {
        // opencode would go on without what is enforced.
        console.error(`opencode-instances: enforcedSettings cannot be imposed: ${error}`);
        process.exit(1);
      }
    },
  };
};
