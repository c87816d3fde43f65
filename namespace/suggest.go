package namespace

import (
	"slices"
	"strconv"
	"strings"
)

// maxShown is how much of a name a message shows, in bytes.
const maxShown = 64

// quote returns s for a message, cut if it is long.
func quote(s string) string {
	if len(s) > maxShown {
		s = strings.ToValidUTF8(s[:maxShown], "") + "..."
	}
	return strconv.Quote(s)
}

// advise returns the end of a message about an unknown name: the nearest of
// the known ones, or all of them.
func advise(name string, known []string) string {
	if len(known) == 0 {
		return "; there is none"
	}
	if near := nearest(name, known); near != "" {
		return "; did you mean " + quote(near)
	}
	const most = 16
	if len(known) > most {
		return "; there are " + strings.Join(known[:most], ", ") + " and " + strconv.Itoa(len(known)-most) + " more"
	}
	if len(known) == 1 {
		return "; there is only " + known[0]
	}
	return "; there are " + strings.Join(known, ", ")
}

// nearest returns the known name that name was probably meant to be.
func nearest(name string, known []string) string {
	if len(name) > maxShown {
		return ""
	}
	name = strings.ToLower(strings.ReplaceAll(name, "-", "_"))
	best, least := "", len(name)/3+1
	for _, k := range known {
		if d := distance(name, strings.ToLower(strings.ReplaceAll(k, "-", "_")), least); d < least || d == least && best == "" {
			best, least = k, d
		}
	}
	if least >= len(name) {
		return "" // every letter is another one
	}
	return best
}

// distance returns how many letters to change, add or leave out make a into
// b, and some number above most if it is more than most.
func distance(a, b string, most int) int {
	if len(a)-len(b) > most || len(b)-len(a) > most {
		return most + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
		if slices.Min(row) > most {
			return most + 1
		}
	}
	return row[len(b)]
}
