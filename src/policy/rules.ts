/** Text of a qrexec policy file as rules, qubes-cli-formats.md §9. */

/** The rules in their order, each with single blanks; comments and empty lines say nothing and are left out. */
export function rulesOf(text: string): string[] {
  return text
    .split("\n")
    .map((line) => line.trim().replace(/\s+/g, " "))
    .filter((line) => line !== "" && !line.startsWith("#"));
}
