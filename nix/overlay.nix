# Adds the engine and changes nothing else: `opencode` and `lib` stay what they are.
final: _prev: {
  opencode-instances = final.callPackage ./package.nix { };
}
