# Print the targets of a makefile that have a ## comment, by the groups that ##@ begins.

/^##@ / {
    group = $2
}

/: .*## / {
    sub(/^\$\(call each,[a-z]+\): /, "")
    name = $0
    sub(/:.*/, "", name)
    sub(/%/, "N", name)
    text = $0
    sub(/.*## /, "", text)
    printf "%-6s make %-17s %s\n", group, name, text
    group = ""
}
