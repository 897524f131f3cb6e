package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// ReadJSON reads one comparison, as its MarshalJSON writes it. Fields that a Comparison does not have are an error.
func ReadJSON(r io.Reader) (*Comparison, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("cannot read the comparison: %w", err)
	}
	c := new(Comparison)
	if err := json.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("not a comparison: %w", err)
	}
	return c, nil
}

// MarshalJSON writes the comparison. Measurements that are not finite become the strings "nan", "inf" and "-inf".
func (c Comparison) MarshalJSON() ([]byte, error) {
	var out bytes.Buffer
	err := writeValue(&out, reflect.ValueOf(c))
	return out.Bytes(), err
}

// UnmarshalJSON reads what MarshalJSON writes.
func (c *Comparison) UnmarshalJSON(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		return err
	}
	var read Comparison
	if err := setValue(reflect.ValueOf(&read).Elem(), tree, ""); err != nil {
		return err
	}
	if err := read.check(); err != nil {
		return err
	}
	*c = read
	return nil
}

// check returns an error where grids do not have the size that they say, or points are named that are not there.
func (c *Comparison) check() error {
	for i, in := range c.Inputs {
		for j, m := range in.Maps {
			where := fmt.Sprintf("inputs[%d].maps[%d]", i, j)
			if m.Size < 0 || m.Size > 4096 {
				return fmt.Errorf("%s.size is %d; want 0 … 4096", where, m.Size)
			}
			if m.Cell < 0 || m.Cell > 1<<32 {
				return fmt.Errorf("%s.cell is %d; want 0 … 2³²", where, m.Cell)
			}
			if len(m.Mass) != m.Size*m.Size {
				return fmt.Errorf("%s.mass has %d numbers; want %d² for a size of %[3]d", where, len(m.Mass), m.Size)
			}
			for k, kept := range m.Kept {
				if len(kept.Share) != m.Size*m.Size {
					return fmt.Errorf("%s.kept[%d].share has %d numbers; want %d² for a size of %[4]d", where, k, len(kept.Share), m.Size)
				}
				if kept.Point < 0 || kept.Point >= len(in.Points) {
					return fmt.Errorf("%s.kept[%d].point is %d; the input has %d points", where, k, kept.Point, len(in.Points))
				}
			}
		}
	}
	return nil
}

// fieldName returns the name of a field in JSON, and whether it is left out when empty.
func fieldName(f reflect.StructField) (string, bool) {
	name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name, options == "omitempty"
}

func writeValue(out *bytes.Buffer, v reflect.Value) error {
	switch v.Kind() {
	case reflect.Float64:
		text, err := Number(v.Float()).MarshalJSON()
		out.Write(text)
		return err
	case reflect.Struct:
		before := byte('{')
		for i := range v.NumField() {
			name, optional := fieldName(v.Type().Field(i))
			if f := v.Field(i); optional && (f.IsZero() || f.Kind() == reflect.Slice && f.Len() == 0) {
				continue
			}
			out.WriteByte(before)
			before = ','
			fmt.Fprintf(out, "%q:", name)
			if err := writeValue(out, v.Field(i)); err != nil {
				return err
			}
		}
		if before == '{' {
			out.WriteByte('{')
		}
		out.WriteByte('}')
		return nil
	case reflect.Slice:
		out.WriteByte('[')
		for i := range v.Len() {
			if i > 0 {
				out.WriteByte(',')
			}
			if err := writeValue(out, v.Index(i)); err != nil {
				return err
			}
		}
		out.WriteByte(']')
		return nil
	case reflect.Map:
		out.WriteByte('{')
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for i, key := range keys {
			if i > 0 {
				out.WriteByte(',')
			}
			if err := writeValue(out, key); err != nil {
				return err
			}
			out.WriteByte(':')
			if err := writeValue(out, v.MapIndex(key)); err != nil {
				return err
			}
		}
		out.WriteByte('}')
		return nil
	default:
		text, err := json.Marshal(v.Interface())
		out.Write(text)
		return err
	}
}

// setValue gives v, which is found at path, the value of a tree of JSON.
func setValue(v reflect.Value, tree any, path string) error {
	wrong := func(want string) error {
		text, _ := json.Marshal(tree)
		if len(text) > 40 {
			text = append(text[:40], "…"...)
		}
		if path == "" {
			return fmt.Errorf("%s is not %s", text, want)
		}
		return fmt.Errorf("%s is %s; want %s", path, text, want)
	}
	if tree == nil {
		if path == "" {
			return errors.New("null")
		}
		return nil
	}
	number, isNumber := tree.(json.Number)
	switch v.Kind() {
	case reflect.Float64:
		text := number.String()
		if s, ok := tree.(string); ok {
			text = strconv.Quote(s)
		}
		x, err := parseNumber(text)
		if err != nil {
			return wrong(`a number, "nan", "inf" or "-inf"`)
		}
		v.SetFloat(x)
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(number.String(), 10, v.Type().Bits())
		if !isNumber || err != nil {
			return wrong("a whole number")
		}
		v.SetInt(n)
	case reflect.Uint64:
		n, err := strconv.ParseUint(number.String(), 10, 64)
		if !isNumber || err != nil {
			return wrong("a whole number, not below zero")
		}
		v.SetUint(n)
	case reflect.String:
		s, ok := tree.(string)
		if !ok {
			return wrong("a string")
		}
		v.SetString(s)
	case reflect.Bool:
		b, ok := tree.(bool)
		if !ok {
			return wrong("true or false")
		}
		v.SetBool(b)
	case reflect.Slice:
		list, ok := tree.([]any)
		if !ok {
			return wrong("a list")
		}
		v.Set(reflect.MakeSlice(v.Type(), len(list), len(list)))
		for i, item := range list {
			if err := setValue(v.Index(i), item, fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
	case reflect.Map, reflect.Struct:
		object, ok := tree.(map[string]any)
		if !ok {
			return wrong("an object")
		}
		if v.Kind() == reflect.Map {
			v.Set(reflect.MakeMap(v.Type()))
		}
		for _, name := range slices.Sorted(maps.Keys(object)) {
			at := strings.TrimPrefix(path+"."+name, ".")
			if err := setMember(v, name, object[name], at); err != nil {
				return err
			}
		}
	default:
		panic("report: a field of kind " + v.Kind().String())
	}
	return nil
}

// setMember sets a field of a struct, or an entry of a map.
func setMember(v reflect.Value, name string, tree any, path string) error {
	if v.Kind() == reflect.Map {
		entry := reflect.New(v.Type().Elem()).Elem()
		if err := setValue(entry, tree, path); err != nil {
			return err
		}
		v.SetMapIndex(reflect.ValueOf(name), entry)
		return nil
	}
	for i := range v.NumField() {
		if known, _ := fieldName(v.Type().Field(i)); known == name {
			return setValue(v.Field(i), tree, path)
		}
	}
	return fmt.Errorf("there is no field %s", path)
}
