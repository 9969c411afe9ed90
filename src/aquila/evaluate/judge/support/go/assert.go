// Package assert has what the benchmark uses of github.com/stretchr/testify/assert.
package assert

import (
	"bytes"
	"fmt"
	"os"
	"reflect"
	"strings"
)

// Assertions ends the program at the first that does not hold.
type Assertions struct{}

var exit = os.Exit

// New takes the place of testify's; a test's own T is not needed.
func New(t interface{}) *Assertions {
	return &Assertions{}
}

// Equal compares as testify does: bytes by content, all else by reflect.DeepEqual.
func (*Assertions) Equal(expected, actual interface{}, _ ...interface{}) bool {
	if equal(expected, actual) {
		return true
	}
	text := fmt.Sprintf("expected %#v, got %#v", expected, actual)
	fmt.Fprintln(os.Stderr, "\n"+strings.ReplaceAll(text, "\n", " "))
	exit(3)
	return false
}

func equal(expected, actual interface{}) bool {
	wanted, isBytes := expected.([]byte)
	if !isBytes {
		return reflect.DeepEqual(expected, actual)
	}
	found, isBytes := actual.([]byte)
	if !isBytes || wanted == nil || found == nil {
		return isBytes && wanted == nil && found == nil
	}
	return bytes.Equal(wanted, found)
}
