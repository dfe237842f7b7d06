// Renders a chart's templates with the engine that Helm uses, Go's text/template, so that a test needs no Helm.
//
// In on standard input: {"chart": {...}, "release": {...}, "values": {...}, "templates": {"name": "text"}, "files": {...}}.
// Out: {"name": "rendered text"}. The functions are those of Helm and Sprig that the chart uses, with their meaning there; any
// other one fails to parse.
package main

import (
	"crypto/sha256"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"text/template"
)

type input struct {
	Chart     map[string]interface{} `json:"chart"`
	Release   map[string]interface{} `json:"release"`
	Values    map[string]interface{} `json:"values"`
	Templates map[string]string      `json:"templates"`
	Files     files                  `json:"files"`
}

// files is .Files: a file that is not there is empty, as in Helm.
type files map[string]string

func (f files) Get(name string) string { return f[name] }

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	var in input
	decoder := json.NewDecoder(os.Stdin)
	// Numbers stay as they are written.
	decoder.UseNumber()
	if err := decoder.Decode(&in); err != nil {
		return err
	}
	all := template.New("chart").Option("missingkey=error")
	all.Funcs(functions(all))
	for name, text := range in.Templates {
		if _, err := all.New(name).Parse(text); err != nil {
			return err
		}
	}
	out := map[string]string{}
	for name := range in.Templates {
		// Files that begin with an underscore hold definitions only.
		if strings.HasPrefix(name, "_") {
			continue
		}
		var text bytes.Buffer
		data := map[string]interface{}{"Chart": in.Chart, "Release": in.Release, "Values": in.Values, "Files": in.Files}
		if err := all.ExecuteTemplate(&text, name, data); err != nil {
			return err
		}
		out[name] = text.String()
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

func functions(all *template.Template) template.FuncMap {
	indent := func(n int, text string) string {
		pad := strings.Repeat(" ", n)
		return pad + strings.ReplaceAll(text, "\n", "\n"+pad)
	}
	return template.FuncMap{
		"include": func(name string, data interface{}) (string, error) {
			var text bytes.Buffer
			err := all.ExecuteTemplate(&text, name, data)
			return text.String(), err
		},
		// JSON is YAML; Helm writes block style, which means the same.
		"toYaml": func(value interface{}) (string, error) {
			text, err := json.Marshal(value)
			return string(text), err
		},
		"nindent":  func(n int, text string) string { return "\n" + indent(n, text) },
		"indent":   indent,
		"quote":    func(value interface{}) string { return fmt.Sprintf("%q", fmt.Sprint(value)) },
		"join":     join,
		"upper":    strings.ToUpper,
		"contains": func(part, text string) bool { return strings.Contains(text, part) },
		"replace":  func(old, new, text string) string { return strings.ReplaceAll(text, old, new) },
		"dict":     dict,
		"sha256sum": func(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) },
		"trunc":     func(n int, text string) string { return text[:n] },
		"trimSuffix": func(end, text string) string { return strings.TrimSuffix(text, end) },
		"fail":      func(why string) (string, error) { return "", errors.New(why) },
		// What is not there is an empty text, as in Sprig.
		"get": func(from map[string]interface{}, name string) interface{} {
			if value, ok := from[name]; ok {
				return value
			}
			return ""
		},
		"default": func(fallback interface{}, given ...interface{}) interface{} {
			if len(given) == 0 || empty(given[0]) {
				return fallback
			}
			return given[0]
		},
	}
}

func join(between string, list interface{}) string {
	value := reflect.ValueOf(list)
	parts := make([]string, value.Len())
	for i := range parts {
		parts[i] = fmt.Sprint(value.Index(i).Interface())
	}
	return strings.Join(parts, between)
}

func dict(pairs ...interface{}) map[string]interface{} {
	out := map[string]interface{}{}
	for i := 0; i+1 < len(pairs); i += 2 {
		out[fmt.Sprint(pairs[i])] = pairs[i+1]
	}
	return out
}

func empty(value interface{}) bool {
	truth, ok := template.IsTrue(value)
	return !truth || !ok
}
